use super::*;
use proptest::prelude::*;

const ALL: [Class; 7] = [
    Class::Transient,
    Class::Validation,
    Class::Limited,
    Class::Refused,
    Class::Local,
    Class::Unusable,
    Class::Unfinished,
];

const NOW: Stamp = 1_800_000_000;

fn life(days: u64, dice: u16) -> Life {
    Life { starts: NOW, ends: NOW + days * DAY, dice }
}

#[test]
fn a_certificate_is_renewed_with_a_third_of_its_life_left_and_a_short_one_at_half() {
    assert_eq!(life(90, 0).due(None), NOW + 60 * DAY);
    assert_eq!(life(6, 0).due(None), NOW + 3 * DAY);
    // By the dice up to a fiftieth earlier, never later.
    assert_eq!(life(90, u16::MAX).due(None), NOW + 60 * DAY - 90 * DAY / 50);
}

#[test]
fn what_the_ca_wishes_counts_if_it_is_earlier_and_makes_sense() {
    let window = |start, end| Some(Window { start, end });
    assert_eq!(life(90, 0).due(window(NOW + DAY, NOW + 2 * DAY)), NOW + DAY);
    assert_eq!(life(90, u16::MAX).due(window(NOW + DAY, NOW + 2 * DAY)), NOW + 2 * DAY);
    let own = life(90, 0).due(None);
    for odd in [(NOW + 9000 * DAY, NOW + 9001 * DAY), (NOW + 2, NOW + 1), (u64::MAX, u64::MAX)] {
        assert_eq!(life(90, 0).due(window(odd.0, odd.1)), own);
    }
}

#[test]
fn a_ca_that_always_wants_a_renewal_now_gets_one_in_a_tenth_of_a_lifetime() {
    let mut ledger = Ledger::default();
    ledger.succeeded(NOW, 90 * DAY);
    let due = life(90, 0).due(Some(Window { start: 0, end: 1 }));
    assert!(due < NOW);
    assert_eq!(ledger.next(due), NOW + 9 * DAY);
}

#[test]
fn failures_climb_the_ladder_of_their_class() {
    let mut ledger = Ledger::default();
    let mut at = NOW;
    for wait in [MINUTE, 10 * MINUTE, 100 * MINUTE, DAY, DAY] {
        ledger.failed(at, Class::Validation, "not reached");
        assert_eq!(ledger.climbed(), at + wait);
        at += wait;
    }
    ledger.succeeded(at, 90 * DAY);
    assert_eq!(ledger.climbed(), 0);
}

#[test]
fn a_third_failed_validation_ends_the_hour() {
    let mut ledger = Ledger::default();
    ledger.failed(NOW, Class::Validation, "");
    ledger.failed(NOW + 1, Class::Transient, "");
    ledger.failed(NOW + 2, Class::Validation, "");
    assert!(ledger.allowed() <= NOW + 2);
    ledger.failed(NOW + 60, Class::Validation, "");
    assert_eq!(ledger.allowed(), NOW + HOUR);
}

#[test]
fn the_ca_may_ask_to_wait_but_not_for_ever() {
    let mut ledger = Ledger::default();
    ledger.told_to_wait(NOW, NOW + 34 * HOUR);
    assert_eq!(ledger.allowed(), NOW + 34 * HOUR);
    ledger.told_to_wait(NOW, u64::MAX);
    assert_eq!(ledger.allowed(), NOW + CA_WAIT_MAX);
}

#[test]
fn a_process_that_ends_while_it_orders_has_failed() {
    let ledger = Ledger { ordering: Some(NOW), ..Ledger::default() };
    let ledger = ledger.taken_up(NOW + 5);
    assert_eq!(ledger.failures, [Failure { at: NOW, class: Class::Unfinished }]);
    assert_eq!(ledger.next(0), NOW + MINUTE);
}

#[test]
fn a_clock_that_was_ahead_blocks_nothing_for_years_and_forgets_nothing() {
    let mut ledger = Ledger::default();
    ledger.succeeded(NOW + 3650 * DAY, 90 * DAY);
    ledger.failed(NOW + 3650 * DAY, Class::Validation, "");
    ledger.wait_until = NOW + 3650 * DAY;
    let ledger = ledger.taken_up(NOW);
    assert_eq!((ledger.given.len(), ledger.failures.len()), (1, 1));
    assert_eq!(ledger.allowed(), NOW + 9 * DAY);
}

#[test]
fn an_implausible_clock_is_doubted() {
    assert!(doubt(0, None).is_some());
    assert!(doubt(NOW, None).is_none());
    let held = Life { starts: NOW + 2 * DAY, ends: NOW + 9 * DAY, dice: 0 };
    assert!(doubt(NOW, Some(held)).is_some());
    assert!(doubt(NOW + DAY, Some(held)).is_none());
}

#[test]
fn another_ca_is_asked_when_this_one_fails_for_its_own_sake() {
    let mut ledger = Ledger::default();
    ledger.failed(NOW, Class::Transient, "");
    assert!(!ledger.wants_another());
    ledger.failed(NOW, Class::Limited, "");
    assert!(ledger.wants_another());
    ledger.failed(NOW, Class::Validation, "");
    assert!(!ledger.wants_another(), "another CA would not reach us either");
}

#[test]
fn all_names_together_keep_the_limit_of_orders() {
    let mut orders = Orders::default();
    for second in 0..ORDERS_MAX as u64 {
        assert_eq!(orders.allowed(), 0);
        orders.ordered(NOW + second);
    }
    assert_eq!(orders.allowed(), NOW + ORDERS_WINDOW);
}

/// What a CA that counts as Let's Encrypt does has seen.
#[derive(Default)]
struct Counted {
    failures: Vec<Stamp>,
    certificates: Vec<Stamp>,
}

fn within(events: &[Stamp], window: u64) -> usize {
    let most = |at: &Stamp| events.iter().filter(|other| (*at..*at + window).contains(other)).count();
    events.iter().map(most).max().unwrap_or(0)
}

/// What becomes of each try.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Given,
    Fails(Class),
    /// The process is killed in the middle.
    Killed,
    /// Restarted as often as that, with nothing else.
    Restarted(u8),
    /// An operator asks for a try now, whatever the ladder says.
    Commanded,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Given),
        5 => proptest::sample::select(ALL.to_vec()).prop_map(Fate::Fails),
        1 => Just(Fate::Killed),
        1 => (1_u8..100).prop_map(Fate::Restarted),
        3 => Just(Fate::Commanded),
    ]
}

proptest! {
    /// No sequence of failures, kills, restarts and commands orders more than the CA's limits allow.
    #[test]
    fn no_sequence_burns_the_limits(
        fates in proptest::collection::vec(fate(), 1..200),
        lifetime in prop_oneof![Just(90 * DAY), Just(160 * HOUR), Just(45 * DAY)],
        always_due in any::<bool>(),
    ) {
        let (mut ledger, mut now, mut counted) = (Ledger::default(), NOW, Counted::default());
        let mut held: Option<Life> = None;
        for fate in fates {
            let due = held.filter(|_| !always_due).map_or(0, |life| life.due(None));
            let commanded = matches!(fate, Fate::Commanded);
            now = now.max(if commanded { ledger.allowed() } else { ledger.next(due) });
            match fate {
                Fate::Given | Fate::Commanded => {
                    counted.certificates.push(now);
                    ledger.succeeded(now, lifetime);
                    held = Some(Life { starts: now, ends: now + lifetime, dice: 77 });
                }
                Fate::Fails(class) => {
                    match class {
                        Class::Validation => counted.failures.push(now),
                        Class::Unusable => counted.certificates.push(now),
                        _ => {}
                    }
                    ledger.failed(now, class, "");
                }
                Fate::Killed => {
                    // At worst the order failed its validation, and nobody wrote it down.
                    counted.failures.push(now);
                    ledger.ordering = Some(now);
                    ledger = ledger.taken_up(now);
                }
                Fate::Restarted(times) => {
                    for _ in 0..times {
                        let text = serde_json::to_string(&ledger).unwrap();
                        ledger = serde_json::from_str::<Ledger>(&text).unwrap().taken_up(now);
                    }
                }
            }
            now += 1;
        }
        prop_assert!(within(&counted.failures, HOUR) <= 5, "{:?}", counted.failures);
        prop_assert!(within(&counted.certificates, WEEK) <= 5, "{:?}", counted.certificates);
    }

    /// Whatever happened, there is a next try within the CA's longest wait: nothing is ever given up.
    #[test]
    fn nothing_is_given_up(classes in proptest::collection::vec(proptest::sample::select(ALL.to_vec()), 0..50), wait in any::<u64>()) {
        let (mut ledger, mut now) = (Ledger::default(), NOW);
        for class in classes {
            ledger.failed(now, class, "");
            now = ledger.next(0).max(now);
        }
        ledger.told_to_wait(now, wait);
        prop_assert!(ledger.next(0) <= now + CA_WAIT_MAX);
    }

    /// A certificate is always due while it is valid, and never in its first tenth by our own rule.
    #[test]
    fn renewal_is_due_within_the_life(seconds in 30_u64..400 * DAY, dice in any::<u16>(), start in any::<u64>(), span in any::<u32>()) {
        let life = Life { starts: NOW, ends: NOW + seconds, dice };
        prop_assert!(life.due(None) > NOW + seconds / 10 && life.due(None) < life.ends);
        let wish = Window { start, end: start.saturating_add(u64::from(span)) };
        prop_assert!(life.due(Some(wish)) <= life.due(None));
    }
}
