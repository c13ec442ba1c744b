use super::*;
use crate::config::Share;

const SPACE: Space =
    Space { total_bytes: 1 << 40, free_bytes: 1 << 39, total_inodes: 1000, free_inodes: 900 };
const MIB: u64 = 1 << 20;

fn budget(bytes_max: u64) -> Arc<Budget> {
    let budget = Budget::new(Cache { max_size: Share::Bytes(bytes_max), ..Cache::default() });
    budget.counted(0, 0, &Usage::default());
    budget
}

#[test]
fn what_is_promised_and_what_is_used_is_never_over_the_budget() {
    let budget = budget(10 * MIB);
    let first = budget.try_reserve(6 * MIB, &SPACE).unwrap();
    assert!(budget.try_reserve(5 * MIB, &SPACE).is_none());
    let second = budget.try_reserve(3 * MIB, &SPACE).unwrap();
    drop(second);
    first.keep(5 * MIB);
    assert_eq!(budget.usage(), Usage { large: 5 * MIB, ..Usage::default() });
    assert!(budget.try_reserve(4 * MIB, &SPACE).is_some());
    assert!(budget.try_reserve(5 * MIB, &SPACE).is_none());
    budget.freed(5 * MIB);
    assert_eq!(budget.usage().total(), 0);
    assert!(budget.try_reserve(9 * MIB, &SPACE).is_some());
}

#[test]
fn nothing_is_promised_before_it_was_counted() {
    let budget = Budget::new(Cache::default());
    assert!(budget.try_reserve(1, &SPACE).is_none());
    assert!(budget.could_fit(1, &SPACE, OwnBytes::default()));
}

#[test]
fn a_count_keeps_what_changed_meanwhile() {
    let budget = budget(100 * MIB);
    budget.found(10 * MIB);
    let before = budget.usage();
    budget.found(3 * MIB);
    budget.freed(MIB / 2);
    budget.found(MIB / 2);
    budget.counted(0, 12 * MIB, &before);
    assert_eq!((budget.usage().large, budget.usage().small), (15 * MIB, MIB / 2));
    drop(Waiting::new(&budget, MIB));
    assert!(lock(&budget.ledger).waiting.is_empty());
}

#[test]
fn what_lies_unfinished_counts_once() {
    let budget = budget(100 * MIB);
    let reservation = budget.try_reserve(10 * MIB, &SPACE).unwrap();
    let measured = OwnBytes { partials: 4 * MIB, other: MIB };
    budget.need(&SPACE, measured, Aim::Watch);
    assert_eq!(budget.usage().total(), 11 * MIB);
    drop(reservation);
    assert_eq!(budget.usage().total(), 5 * MIB);
}

#[test]
fn rows_that_are_of_no_fill_are_counted_anew() {
    let budget = budget(10 * MIB);
    budget.recount();
    assert!(!budget.is_counted());
    // What is known is believed meanwhile: nobody waits for the count.
    assert!(budget.try_reserve(MIB, &SPACE).is_some());
    let before = budget.count_begins();
    budget.recount();
    budget.counted(0, 9 * MIB, &before);
    assert!(!budget.is_counted(), "more came while it counted");
    let before = budget.count_begins();
    budget.counted(0, 9 * MIB, &before);
    assert!(budget.is_counted() && budget.try_reserve(2 * MIB, &SPACE).is_none());
}
