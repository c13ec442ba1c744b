//! What to fetch next: a decision without I/O, made anew whenever something moved.
//!
//! Every byte that is missing is either on its way by exactly one transfer, or in a gap. A reader that stands before a gap
//! gets a transfer of its own; one that stands far ahead of the transfer that would come by takes the rest of it over.
//! What nobody waits for is fetched from the front when nothing else is on its way, unless only what is asked for is
//! wanted.

use crate::registry::ByteRange;
use crate::store::Extents;

/// A reader this close ahead of a transfer waits for it: a transfer of its own would hardly be sooner, and one that is
/// ended early costs what is in the pipe by then.
pub(super) const NEAR_BYTES: u64 = 4 * 1024 * 1024;

/// Most transfers of one blob at once. A client that asks for many parts at once must not take the connections of all
/// others; the parts that wait are served in order.
pub(super) const TRANSFERS_MAX: usize = 4;

/// The shortest stretch that is cut in two for the sake of speed alone.
const SEGMENT_BYTES_MIN: u64 = 32 * 1024 * 1024;

/// What is known when a plan is made.
#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    /// The length of the blob.
    pub total: u64,
    /// What is there.
    pub done: Extents,
    /// What an earlier process left, not yet checked: nobody fetches it before that.
    pub left: Extents,
    /// What is on its way.
    pub spans: Vec<Span>,
    /// What readers want next, in the order in which they came.
    pub wants: Vec<ByteRange>,
    /// Whether the upstream gives parts.
    pub parts: bool,
    /// Whether only what is asked for is fetched.
    pub lazy: bool,
    /// Transfers at once that are wanted for speed alone; 1 for none besides the one.
    pub segments: usize,
}

/// What a transfer has taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Which transfer.
    pub id: u64,
    /// From here on it is not written yet.
    pub written: u64,
    /// Up to here it has been received.
    pub reached: u64,
    /// Where it ends.
    pub end: u64,
}

impl Span {
    /// What of the blob is its own.
    pub(super) fn range(&self) -> ByteRange {
        ByteRange { first: self.written, end: self.end }
    }
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Let a transfer end here.
    Cut {
        /// Which.
        id: u64,
        /// Its new end.
        end: u64,
    },
    /// Fetch this.
    Start(ByteRange),
}

/// The steps to take now, in order.
pub(super) fn plan(chart: &Chart) -> Vec<Step> {
    let mut draft = Draft { chart: chart.clone(), started: 0 };
    draft.end_what_nobody_wants();
    for want in &chart.wants {
        draft.serve(*want);
    }
    draft.go_on_from_the_front();
    draft.spread();
    draft.steps(chart)
}

struct Draft {
    /// The chart as it is to be.
    chart: Chart,
    started: u64,
}

impl Draft {
    fn is_full(&self) -> bool {
        let most = if self.chart.parts { TRANSFERS_MAX.max(self.chart.segments) } else { 1 };
        self.running() >= most
    }

    /// Transfers that have something left to receive.
    fn running(&self) -> usize {
        self.chart.spans.iter().filter(|span| span.reached < span.end).count()
    }

    /// A transfer that no reader will come by gives its place to one that a reader waits for; when only what is asked for
    /// is fetched, it gives it to nobody.
    fn end_what_nobody_wants(&mut self) {
        let waiting = self.chart.wants.iter().any(|want| self.gap_of(*want).is_some());
        let pressed = waiting && self.is_full();
        if !self.chart.lazy && !pressed {
            return;
        }
        let wants = self.chart.wants.clone();
        let running = |span: &Span| span.reached < span.end;
        let unread = |span: &Span| {
            running(span) && !wants.iter().any(|want| want.first < span.end && want.end > span.reached)
        };
        let ended: Vec<Span> = self.chart.spans.iter().copied().filter(unread).collect();
        for span in ended.into_iter().take(if self.chart.lazy { usize::MAX } else { 1 }) {
            self.cut(span.id, span.reached);
        }
    }

    /// The gap that a reader stands before, if nobody fills it soon.
    fn gap_of(&self, want: ByteRange) -> Option<ByteRange> {
        let end = want.end.min(self.chart.total);
        let gap = self.chart.done.gap_from(want.first, end)?;
        let end = self.chart.left.next_from(gap.first).unwrap_or(end).min(gap.end);
        (gap.first < end).then_some(ByteRange { first: gap.first, end })
    }

    fn serve(&mut self, want: ByteRange) {
        let Some(gap) = self.gap_of(want) else { return };
        if self.is_full() {
            return;
        }
        if !self.chart.parts {
            // Whatever lies before it has to be read too.
            return self.start_at_the_front();
        }
        match self.span_at(gap.first) {
            None => {
                let end = self.next_span(gap.first).unwrap_or(gap.end).min(gap.end);
                self.start(ByteRange { first: gap.first, end });
            }
            Some(span) if gap.first >= span.reached.saturating_add(NEAR_BYTES) => {
                self.cut(span.id, gap.first);
                self.start(ByteRange { first: gap.first, end: span.end.min(gap.end) });
            }
            Some(_) => {}
        }
    }

    fn go_on_from_the_front(&mut self) {
        if !self.chart.lazy && self.running() == 0 {
            self.start_at_the_front();
        }
    }

    fn start_at_the_front(&mut self) {
        let mut taken = self.chart.done.clone();
        self.chart.left.iter().for_each(|range| taken.insert(range));
        let spans = self.chart.spans.iter();
        spans.for_each(|span| taken.insert(span.range()));
        if let Some(gap) = taken.gap_from(0, self.chart.total) {
            self.start(gap);
        }
    }

    /// Cuts the longest stretch in two as long as there are fewer transfers than are wanted.
    fn spread(&mut self) {
        while self.chart.parts && (1..self.chart.segments).contains(&self.running()) {
            let length = |span: &Span| span.end.saturating_sub(span.reached);
            let Some(longest) = self.chart.spans.iter().copied().max_by_key(length) else { return };
            if length(&longest) < SEGMENT_BYTES_MIN {
                return;
            }
            let middle = longest.reached + length(&longest) / 2;
            self.cut(longest.id, middle);
            self.start(ByteRange { first: middle, end: longest.end });
        }
    }

    fn span_at(&self, at: u64) -> Option<Span> {
        self.chart.spans.iter().copied().find(|span| span.written <= at && at < span.end)
    }

    fn next_span(&self, at: u64) -> Option<u64> {
        self.chart.spans.iter().map(|span| span.written).filter(|written| *written > at).min()
    }

    fn cut(&mut self, id: u64, end: u64) {
        self.chart.spans.iter_mut().filter(|span| span.id == id).for_each(|span| span.end = end);
    }

    fn start(&mut self, range: ByteRange) {
        self.started += 1;
        let id = u64::MAX - self.started;
        self.chart.spans.push(Span { id, written: range.first, reached: range.first, end: range.end });
    }

    /// What leads from the chart as it was to the one that is to be.
    fn steps(self, before: &Chart) -> Vec<Step> {
        let (old, new) = self.chart.spans.split_at_checked(before.spans.len()).unwrap_or_default();
        let changed = old.iter().zip(&before.spans).filter(|(now, then)| now.end != then.end);
        let cuts = changed.map(|(now, _)| Step::Cut { id: now.id, end: now.end });
        let started = new.iter().filter(|span| span.reached < span.end);
        let starts = started.map(|span| Step::Start(ByteRange { first: span.reached, end: span.end }));
        cuts.chain(starts).collect()
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
