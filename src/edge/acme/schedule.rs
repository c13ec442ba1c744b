//! When a certificate is asked for next. Pure: times come in, a time goes out.
//!
//! Two kinds of rules. *Limits* hold always, for an operator's command too: they keep us below what CAs allow, whatever fails.
//! The *ladder* spaces tries out after failures, and an operator may skip it. Let's Encrypt's limits are the measure: 5 failed
//! validations of a name in an hour, 5 certificates for the same names in a week, 300 orders in three hours.

use serde::{Deserialize, Serialize};

/// Seconds since 1970 on the wall clock.
pub type Stamp = u64;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// Certificates with less than this are renewed at half of their life: a third would leave no time for a CA's bad day.
const SHORT_LIVED: u64 = 10 * DAY;

/// Failed validations of a name in an hour. Let's Encrypt allows 5; other machines may share the name.
const VALIDATIONS_MAX: usize = 3;

/// Certificates for a name in a week, or in one lifetime if that is shorter. Let's Encrypt allows 5.
const CERTIFICATES_MAX: usize = 4;

/// Orders of all names at one CA in three hours. Let's Encrypt allows 300 for an account.
const ORDERS_MAX: usize = 100;
const ORDERS_WINDOW: u64 = 3 * HOUR;

/// Longest wait that a CA may ask for: the longest window of Let's Encrypt's limits, and a day.
const CA_WAIT_MAX: u64 = WEEK + DAY;

/// A certificate whose lifetime is not known counts as one of those that Let's Encrypt gives.
const LIFETIME: u64 = 90 * DAY;

/// What a certificate that is of no use counts as: the next one may be ordered after a day.
const UNUSABLE_LIFETIME: u64 = 10 * DAY;

/// Entries of each kind that are kept: more than any limit looks at.
const KEPT: usize = 16;

/// No clock that shows an earlier time is right: 2026-11-01, before which this program did not exist.
const CLOCK_MIN: Stamp = 1_793_491_200;

/// How far a certificate's start may lie in the future before the clock is doubted: CAs backdate by an hour.
const CLOCK_SLACK: u64 = DAY;

/// Why a try gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The CA can't be reached, is slow, broken, or rejects nonces.
    Transient,
    /// The CA did not find the answer to its challenge.
    Validation,
    /// The CA asks to wait.
    Limited,
    /// The CA does not want to: the name, the account, the terms.
    Refused,
    /// We could not: no room on the disk, no port, a clock that is wrong. The CA was asked for nothing.
    Local,
    /// A certificate came that is of no use here.
    Unusable,
    /// The process ended in the middle.
    Unfinished,
}

impl Class {
    /// The word for it in metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Validation => "validation",
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::Local => "local",
            Self::Unusable => "unusable",
            Self::Unfinished => "unfinished",
        }
    }

    /// Waits after the first, second, … failure in a row, in seconds; the last one counts for all that follow.
    fn ladder(self) -> &'static [u64] {
        match self {
            // Nothing was ordered, or the order is taken up again: only the CA's patience is used.
            Self::Transient => &[30, 2 * MINUTE, 10 * MINUTE, HOUR, 6 * HOUR],
            // Let's Encrypt's own advice.
            Self::Validation | Self::Unfinished => &[MINUTE, 10 * MINUTE, 100 * MINUTE, DAY],
            Self::Limited | Self::Refused => &[HOUR, 6 * HOUR, DAY],
            Self::Local => &[MINUTE, 10 * MINUTE],
            Self::Unusable => &[DAY],
        }
    }
}

/// A certificate's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its first second.
    pub starts: Stamp,
    /// Its last one.
    pub ends: Stamp,
    /// Picks one time of many, the same one for the same certificate.
    pub dice: u16,
}

/// When the CA would like a certificate to be renewed (RFC 9773).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From here.
    pub start: Stamp,
    /// To here.
    pub end: Stamp,
}

impl Life {
    fn length(self) -> u64 {
        self.ends.saturating_sub(self.starts).max(1)
    }

    /// A part of a span, by the dice.
    fn part_of(self, span: u64) -> u64 {
        let part = u128::from(span) * u128::from(self.dice) / u128::from(u16::MAX);
        u64::try_from(part).unwrap_or(span)
    }

    /// When it is to be renewed: with a third of its life left, or half of a short one, a little earlier by the dice so that not
    /// all names come at once; earlier still if the CA wants it, never later.
    pub fn due(self, wish: Option<Window>) -> Stamp {
        let length = self.length();
        let left = if length < SHORT_LIVED { length / 2 } else { length / 3 };
        let own = self.ends.saturating_sub(left).saturating_sub(self.part_of(length / 50));
        let wished = wish.filter(|window| window.start <= window.end);
        let wished =
            wished.map(|window| window.start.saturating_add(self.part_of(window.end - window.start)));
        wished.map_or(own, |wished| wished.min(own))
    }
}

/// A certificate that a CA gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// When.
    pub at: Stamp,
    /// Its lifetime in seconds.
    pub lifetime: u64,
}

/// A try that gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Stamp,
    /// Why.
    pub class: Class,
}

/// What happened so far between one CA and one name. Kept on disk, so that a restart forgets nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Certificates, the newest last.
    pub given: Vec<Given>,
    /// Failures, the newest last.
    pub failures: Vec<Failure>,
    /// Failures since the last certificate.
    pub in_a_row: u32,
    /// Until when the CA asked us to wait.
    pub wait_until: Stamp,
    /// An order is being made since then, and nothing is known of it yet.
    pub ordering: Option<Stamp>,
    /// What the last failure was about, for people.
    pub last_error: Option<String>,
}

impl Ledger {
    /// Takes a ledger from disk into this process: what never ended counts as a failure, and what lies in the future (the clock
    /// was ahead) counts as of now, so that it neither blocks for years nor is forgotten.
    pub fn taken_up(mut self, now: Stamp) -> Self {
        if let Some(at) = self.ordering.take() {
            self.failed(at.min(now), Class::Unfinished, "the process ended while it ordered");
        }
        self.given.iter_mut().for_each(|given| given.at = given.at.min(now));
        self.failures.iter_mut().for_each(|failure| failure.at = failure.at.min(now));
        self.wait_until = self.wait_until.min(now.saturating_add(CA_WAIT_MAX));
        self
    }

    /// A certificate came.
    pub fn succeeded(&mut self, at: Stamp, lifetime: u64) {
        self.ordering = None;
        self.given.push(Given { at, lifetime });
        keep_newest(&mut self.given);
        (self.in_a_row, self.wait_until, self.last_error) = (0, 0, None);
    }

    /// Nothing came.
    pub fn failed(&mut self, at: Stamp, class: Class, why: &str) {
        self.ordering = None;
        if class == Class::Unusable {
            // The CA counts it all the same.
            let lifetime = self.given.last().map_or(UNUSABLE_LIFETIME, |last| last.lifetime);
            self.given.push(Given { at, lifetime });
            keep_newest(&mut self.given);
        }
        self.failures.push(Failure { at, class });
        keep_newest(&mut self.failures);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last_error = Some(why.to_owned());
    }

    /// The CA asks us to wait.
    pub fn told_to_wait(&mut self, now: Stamp, until: Stamp) {
        self.wait_until = self.wait_until.max(until.min(now.saturating_add(CA_WAIT_MAX)));
    }

    /// The earliest time at which another order may be made, by the limits alone.
    pub fn allowed(&self) -> Stamp {
        // A process that ended in the middle may have left a failed validation behind.
        let counts = |class| matches!(class, Class::Validation | Class::Unfinished);
        let validations = self.failures.iter().filter(|failure| counts(failure.class));
        let validations: Vec<Stamp> = validations.map(|failure| failure.at).collect();
        let validation = full_until(&validations, VALIDATIONS_MAX, HOUR);
        let spacing = self.given.last().map_or(0, |last| last.at.saturating_add(last.lifetime / 10));
        let lifetime = self.given.last().map_or(LIFETIME, |last| last.lifetime);
        let certificates: Vec<Stamp> = self.given.iter().map(|given| given.at).collect();
        let week = full_until(&certificates, CERTIFICATES_MAX, WEEK.min(lifetime));
        self.wait_until.max(validation).max(spacing).max(week)
    }

    /// The earliest time of the next try by the ladder.
    fn climbed(&self) -> Stamp {
        let Some(last) = self.failures.last().filter(|_| self.in_a_row > 0) else { return 0 };
        let ladder = last.class.ladder();
        let rung = usize::try_from(self.in_a_row - 1).unwrap_or(usize::MAX).min(ladder.len() - 1);
        let wait = ladder.get(rung).copied().unwrap_or(DAY);
        // A CA that gives certificates for an hour expects to be asked again within minutes.
        let short = self.given.last().map_or(DAY, |given| (given.lifetime / 20).max(5));
        last.at.saturating_add(wait.min(short))
    }

    /// When to try next for a certificate that is due at a time.
    pub fn next(&self, due: Stamp) -> Stamp {
        due.max(self.climbed()).max(self.allowed())
    }

    /// Whether another CA should be tried beside this one: it fails, and not for our own sake.
    pub fn wants_another(&self) -> bool {
        let ours = |class| matches!(class, Class::Validation | Class::Local | Class::Unfinished);
        self.in_a_row >= 2 && self.failures.last().is_some_and(|last| !ours(last.class))
    }
}

fn keep_newest<T>(entries: &mut Vec<T>) {
    entries.drain(..entries.len().saturating_sub(KEPT));
}

/// Until when no further event may come, if at most so many are allowed in a window.
fn full_until(events: &[Stamp], most: usize, window: u64) -> Stamp {
    let oldest = events.len().checked_sub(most).and_then(|index| events.get(index));
    oldest.map_or(0, |at| at.saturating_add(window))
}

/// The orders of all names at one CA.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders(Vec<Stamp>);

impl Orders {
    /// An order is about to be made.
    pub fn ordered(&mut self, now: Stamp) {
        self.0.iter_mut().for_each(|at| *at = (*at).min(now));
        self.0.push(now);
        self.0.drain(..self.0.len().saturating_sub(ORDERS_MAX));
    }

    /// When the next one may be made.
    pub fn allowed(&self) -> Stamp {
        full_until(&self.0, ORDERS_MAX, ORDERS_WINDOW)
    }
}

/// What is wrong with the clock, if anything; then nothing is ordered.
pub fn doubt(now: Stamp, held: Option<Life>) -> Option<&'static str> {
    if now < CLOCK_MIN {
        return Some("the clock shows a time before this program was made");
    }
    let early = held.is_some_and(|life| now.saturating_add(CLOCK_SLACK) < life.starts);
    early.then_some("the clock shows a time before the certificate that is held was made")
}

#[cfg(test)]
mod tests;
