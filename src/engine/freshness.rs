//! When a known tag may be given out, and when its upstream is asked first. Pure: the time is an argument.
//!
//! A tag is confirmed by one HEAD at every request, which Docker Hub does not count. An upstream that fails or is slow
//! closes the [`Gate`] for a few seconds: known tags then go out at once, and a single probe finds out when it is back.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::outcome::{Outcome, Stale};
use crate::sys::sync::lock;

/// How long a client waits for the confirmation of a tag that is held. dockerd is patient for minutes, a CI job is not.
pub const CONFIRMATION_WAIT: Duration = Duration::from_secs(2);

/// How long known tags go out without waiting after their upstream failed; then one request probes it.
pub const GATE_CLOSED_FOR: Duration = Duration::from_secs(5);

/// The rules of `tidegate.tags`.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A confirmation counts for this long; zero asks at every request.
    pub fresh: Duration,
    /// How old the last confirmation may be when the upstream cannot be asked; `None` is without limit.
    pub stale_for: Option<Duration>,
    /// Whether a tag that the upstream says is gone goes on being served.
    pub serve_gone: bool,
}

impl Rules {
    /// Whether a tag confirmed `age` ago may be served for this reason.
    pub fn allow_stale(&self, why: Stale, age: Duration) -> bool {
        let young_enough = self.stale_for.is_none_or(|limit| age <= limit);
        young_enough && (why != Stale::Gone || self.serve_gone)
    }
}

/// What to do for a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Answer at once.
    Serve(Outcome),
    /// Answer at once, and ask the upstream in the background whether it is back.
    ServeAndProbe(Outcome),
    /// Ask, and answer with what is held if that takes longer than [`CONFIRMATION_WAIT`].
    Confirm,
    /// Nothing is held: ask, and wait as long as a client may wait.
    Ask,
}

/// Decides for a tag whose last confirmation, if it is held at all, is `age` old. The gate is asked only where its word
/// counts, since it lets one probe through.
pub fn plan(age: Option<Duration>, rules: &Rules, verdict: impl FnOnce() -> Verdict) -> Plan {
    let Some(age) = age else { return Plan::Ask };
    if let Some(left) = rules.fresh.checked_sub(age).filter(|left| !left.is_zero()) {
        return Plan::Serve(Outcome::Fresh(left));
    }
    match verdict() {
        Verdict::Closed(why) if rules.allow_stale(why, age) => Plan::Serve(Outcome::Stale(why, age)),
        Verdict::Probe(why) if rules.allow_stale(why, age) => Plan::ServeAndProbe(Outcome::Stale(why, age)),
        _ => Plan::Confirm,
    }
}

/// How long an upstream may fail before somebody should look: what is served grows old meanwhile.
pub const ALARM_AFTER: Duration = Duration::from_secs(3600);

/// Whether an upstream is worth waiting for. One for each upstream.
#[derive(Debug, Default)]
pub struct Gate {
    trip: Mutex<Option<Trip>>,
}

#[derive(Debug, Clone, Copy)]
struct Trip {
    /// The first failure since it last answered.
    since: Instant,
    at: Instant,
    why: Stale,
    alarmed: bool,
}

/// What the gate says to a request for something that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream answered last time.
    Open,
    /// It failed moments ago: do not wait for it.
    Closed(Stale),
    /// It failed a while ago: this request is the one that finds out, without waiting.
    Probe(Stale),
}

impl Gate {
    /// The verdict for one request. A `Probe` is given to one request only in each period.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let mut trip = lock(&self.trip);
        let Some(last) = *trip else { return Verdict::Open };
        if now.saturating_duration_since(last.at) < GATE_CLOSED_FOR {
            return Verdict::Closed(last.why);
        }
        *trip = Some(Trip { at: now, ..last });
        Verdict::Probe(last.why)
    }

    /// The upstream failed, or kept a client waiting. Whether this is the moment to raise the alarm: once for each time
    /// that it is gone.
    pub fn close(&self, why: Stale, now: Instant) -> bool {
        let mut trip = lock(&self.trip);
        let (since, alarmed) = trip.map_or((now, false), |last| (last.since, last.alarmed));
        let alarm = !alarmed && now.saturating_duration_since(since) >= ALARM_AFTER;
        *trip = Some(Trip { since, at: now, why, alarmed: alarmed || alarm });
        alarm
    }

    /// How long it has failed by now.
    pub fn closed_for(&self, now: Instant) -> Duration {
        lock(&self.trip).map_or(Duration::ZERO, |trip| now.saturating_duration_since(trip.since))
    }

    /// The upstream answered.
    pub fn open(&self) {
        *lock(&self.trip) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { fresh: Duration::ZERO, stale_for: None, serve_gone: true };
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn by_default_every_request_for_a_tag_asks() {
        assert_eq!(plan(Some(Duration::ZERO), &RULES, || Verdict::Open), Plan::Confirm);
        assert_eq!(plan(None, &RULES, || Verdict::Open), Plan::Ask);
        assert_eq!(plan(None, &RULES, || Verdict::Closed(Stale::Down)), Plan::Ask);
    }

    #[test]
    fn inside_its_window_a_tag_is_fresh() {
        let rules = Rules { fresh: Duration::from_secs(60), ..RULES };
        let left = Duration::from_secs(45);
        assert_eq!(
            plan(Some(Duration::from_secs(15)), &rules, || Verdict::Open),
            Plan::Serve(Outcome::Fresh(left))
        );
        assert_eq!(plan(Some(Duration::from_secs(60)), &rules, || Verdict::Open), Plan::Confirm);
    }

    #[test]
    fn stale_tags_have_no_age_limit_unless_one_is_set() {
        let closed = Verdict::Closed(Stale::Slow);
        let served = Plan::Serve(Outcome::Stale(Stale::Slow, 1000 * HOUR));
        assert_eq!(plan(Some(1000 * HOUR), &RULES, || closed), served);
        let rules = Rules { stale_for: Some(HOUR), ..RULES };
        assert_eq!(plan(Some(2 * HOUR), &rules, || closed), Plan::Confirm);
        assert!(!rules.allow_stale(Stale::Down, 2 * HOUR) && rules.allow_stale(Stale::Down, HOUR));
    }

    #[test]
    fn a_gone_tag_is_refused_only_on_request() {
        assert!(RULES.allow_stale(Stale::Gone, HOUR));
        assert!(!Rules { serve_gone: false, ..RULES }.allow_stale(Stale::Gone, HOUR));
    }

    #[test]
    fn a_closed_gate_lets_one_probe_through_in_each_period() {
        let (gate, start) = (Gate::default(), crate::sys::clock::monotonic());
        assert_eq!(gate.verdict(start), Verdict::Open);
        gate.close(Stale::Down, start);
        assert_eq!(gate.verdict(start + GATE_CLOSED_FOR / 2), Verdict::Closed(Stale::Down));
        assert_eq!(gate.verdict(start + GATE_CLOSED_FOR), Verdict::Probe(Stale::Down));
        assert_eq!(gate.verdict(start + GATE_CLOSED_FOR), Verdict::Closed(Stale::Down));
        assert_eq!(gate.verdict(start + 2 * GATE_CLOSED_FOR), Verdict::Probe(Stale::Down));
        gate.open();
        assert_eq!(gate.verdict(start), Verdict::Open);
    }

    #[test]
    fn an_upstream_that_is_gone_for_an_hour_raises_the_alarm_once() {
        let (gate, start) = (Gate::default(), crate::sys::clock::monotonic());
        assert!(!gate.close(Stale::Down, start) && !gate.close(Stale::Slow, start + ALARM_AFTER / 2));
        assert!(
            gate.close(Stale::Down, start + ALARM_AFTER) && !gate.close(Stale::Down, start + 2 * ALARM_AFTER)
        );
        assert_eq!(gate.closed_for(start + ALARM_AFTER), ALARM_AFTER);
        gate.open();
        assert_eq!(gate.closed_for(start + ALARM_AFTER), Duration::ZERO);
        assert!(!gate.close(Stale::Down, start + 3 * ALARM_AFTER));
    }
}
