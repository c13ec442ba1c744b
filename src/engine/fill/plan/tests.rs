use super::*;
use proptest::prelude::*;

const MIB: u64 = 1024 * 1024;

fn range(first: u64, end: u64) -> ByteRange {
    ByteRange { first: first * MIB, end: end * MIB }
}

fn extents(ranges: &[(u64, u64)]) -> Extents {
    let mut extents = Extents::default();
    ranges.iter().for_each(|&(first, end)| extents.insert(range(first, end)));
    extents
}

fn span(id: u64, at: u64, end: u64) -> Span {
    Span { id, written: at * MIB, reached: at * MIB, end: end * MIB }
}

/// A blob of 100 MiB whose upstream gives parts.
fn chart() -> Chart {
    Chart { total: 100 * MIB, parts: true, segments: 1, ..Chart::default() }
}

#[test]
fn the_rest_follows_when_nobody_waits_for_anything() {
    assert_eq!(plan(&chart()), [Step::Start(range(0, 100))]);
    let half = Chart { done: extents(&[(0, 10), (20, 30)]), ..chart() };
    assert_eq!(plan(&half), [Step::Start(range(10, 20))]);
    assert_eq!(plan(&Chart { done: extents(&[(0, 100)]), ..chart() }), []);
    assert_eq!(plan(&Chart { lazy: true, ..chart() }), []);
    assert_eq!(plan(&Chart { spans: vec![span(1, 5, 100)], ..chart() }), []);
}

#[test]
fn a_reader_far_ahead_takes_the_rest_of_a_transfer_over() {
    let far = Chart { spans: vec![span(1, 5, 100)], wants: vec![range(90, 100)], ..chart() };
    assert_eq!(plan(&far), [Step::Cut { id: 1, end: 90 * MIB }, Step::Start(range(90, 100))]);
    let closed = Chart { wants: vec![range(50, 60)], ..far };
    assert_eq!(plan(&closed), [Step::Cut { id: 1, end: 50 * MIB }, Step::Start(range(50, 60))]);
}

#[test]
fn a_reader_close_ahead_waits() {
    let near = Chart { spans: vec![span(1, 5, 100)], wants: vec![range(8, 100)], ..chart() };
    assert_eq!(plan(&near), []);
    let behind = Chart { done: extents(&[(0, 5)]), wants: vec![range(2, 100)], ..near };
    assert_eq!(plan(&behind), []);
}

#[test]
fn an_upstream_without_parts_is_read_from_the_front_alone() {
    let far = Chart { spans: vec![span(1, 5, 100)], wants: vec![range(90, 100)], parts: false, ..chart() };
    assert_eq!(plan(&far), []);
    let lazy = Chart { spans: vec![], done: extents(&[(0, 3)]), lazy: true, ..far };
    assert_eq!(plan(&lazy), [Step::Start(range(3, 100))]);
}

#[test]
fn a_gap_before_a_reader_is_filled_up_to_what_is_there_or_on_its_way() {
    let gap = Chart { done: extents(&[(0, 10), (30, 40)]), spans: vec![span(1, 60, 100)], ..chart() };
    assert_eq!(plan(&Chart { wants: vec![range(5, 100)], ..gap.clone() }), [Step::Start(range(10, 30))]);
    assert_eq!(plan(&Chart { wants: vec![range(35, 100)], ..gap.clone() }), [Step::Start(range(40, 60))]);
    assert_eq!(plan(&Chart { wants: vec![range(35, 45)], ..gap }), [Step::Start(range(40, 45))]);
}

#[test]
fn what_an_earlier_process_left_is_waited_for() {
    let left = Chart { left: extents(&[(0, 50)]), wants: vec![range(0, 100)], lazy: true, ..chart() };
    assert_eq!(plan(&left), []);
    let eager = Chart { lazy: false, ..left };
    assert_eq!(plan(&eager), [Step::Start(range(50, 100))]);
    assert_eq!(plan(&Chart { left: extents(&[(20, 50)]), ..eager }), [Step::Start(range(0, 20))]);
}

#[test]
fn what_nobody_wants_gives_its_place_to_what_somebody_waits_for() {
    let spans = vec![span(1, 10, 20), span(2, 30, 40), span(3, 50, 60), span(4, 70, 80)];
    let full = Chart { spans, wants: vec![range(10, 40), range(50, 60), range(90, 95)], ..chart() };
    let steps = plan(&full);
    assert_eq!(steps, [Step::Cut { id: 4, end: 70 * MIB }, Step::Start(range(90, 95))]);
    let all_wanted = Chart { wants: vec![range(10, 80), range(90, 95)], ..full };
    assert_eq!(plan(&all_wanted), []);
}

#[test]
fn only_what_is_asked_for_is_fetched_if_that_is_wanted() {
    let lazy = Chart { lazy: true, spans: vec![span(1, 10, 20), span(2, 30, 40)], ..chart() };
    let steps = plan(&Chart { wants: vec![range(31, 35)], ..lazy });
    assert_eq!(steps, [Step::Cut { id: 1, end: 10 * MIB }]);
}

#[test]
fn the_longest_stretch_is_spread_over_several_transfers() {
    let steps = plan(&Chart { segments: 3, ..chart() });
    let spread = [range(0, 50), range(50, 75), range(75, 100)].map(Step::Start);
    assert_eq!(steps, spread);
    assert_eq!(plan(&Chart { segments: 3, spans: vec![span(1, 90, 100)], ..chart() }), []);
}

proptest! {
    /// Whatever moves: no byte is on its way twice, nothing that is there is fetched, there are never too many transfers,
    /// and the blob gets done.
    #[test]
    fn every_byte_is_fetched_once(
        wants in proptest::collection::vec((0u64..100, 1u64..100), 0..12),
        moves in proptest::collection::vec((0usize..4, 1u64..9), 0..200),
        lazy in any::<bool>(),
        segments in 1usize..4,
    ) {
        let mut chart = Chart { lazy, segments, ..chart() };
        chart.wants = wants.into_iter().map(|(first, length)| range(first, first + length)).collect();
        let (mut id, mut fetched) = (0, 0);
        for round in 0..400 {
            for step in plan(&chart) {
                match step {
                    Step::Cut { id, end } => {
                        let span = chart.spans.iter_mut().find(|span| span.id == id).unwrap();
                        prop_assert!(span.reached <= end && end <= span.end);
                        span.end = end;
                    }
                    Step::Start(range) => {
                        id += 1;
                        prop_assert!(chart.done.gap_from(range.first, range.end) == Some(range));
                        let free = |span: &Span| range.end <= span.written || span.end <= range.first;
                        prop_assert!(chart.spans.iter().all(free));
                        chart.spans.push(Span { id, written: range.first, reached: range.first, end: range.end });
                    }
                }
            }
            chart.spans.retain(|span| span.reached < span.end);
            prop_assert!(chart.spans.len() <= TRANSFERS_MAX);
            if chart.spans.is_empty() {
                break;
            }
            let (which, step) = moves.get(round).copied().unwrap_or((0, 8));
            let which = which % chart.spans.len();
            let span = &mut chart.spans[which];
            let end = span.end.min(span.reached + step * MIB);
            chart.done.insert(ByteRange { first: span.written, end });
            fetched += end - span.written;
            (span.written, span.reached) = (end, end);
            chart.spans.retain(|span| span.reached < span.end);
            // Readers go on as far as there is something, and leave at their end.
            for want in &mut chart.wants {
                want.first = chart.done.end_from(want.first).min(want.end);
            }
            chart.wants.retain(|want| want.first < want.end.min(chart.total));
        }
        prop_assert!(chart.wants.is_empty(), "{chart:?}");
        prop_assert_eq!(fetched, chart.done.bytes());
        prop_assert!(lazy || chart.done.bytes() == chart.total);
    }
}
