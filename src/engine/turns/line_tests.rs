use proptest::prelude::*;

use super::*;

fn client(number: u8) -> Client {
    Client::at(Some(std::net::Ipv4Addr::new(10, 0, 0, number).into()))
}

fn blob(number: u32) -> Digest {
    Digest::sha256(&number.to_le_bytes())
}

/// Whose ticket is whose is told by a token: the client and its count.
fn order(line: &mut Line<(u8, u32)>) -> Vec<(u8, u32)> {
    std::iter::from_fn(|| line.next()).collect()
}

#[test]
fn one_who_asks_for_much_lets_the_others_pass() {
    let mut line = Line::default();
    for number in 0..500 {
        line.enter(blob(number), &[client(1)], (1, number));
    }
    line.enter(blob(1000), &[client(2)], (2, 0));
    line.enter(blob(1001), &[client(3)], (3, 0));
    assert_eq!(order(&mut line)[..4], [(1, 0), (2, 0), (3, 0), (1, 1)]);
}

#[test]
fn what_two_want_comes_when_it_is_the_turn_of_either() {
    let mut line = Line::default();
    for number in 0..100 {
        line.enter(blob(number), &[client(1)], (1, number));
    }
    line.join(&blob(99), client(2));
    assert_eq!(order(&mut line)[..3], [(1, 0), (1, 99), (1, 1)]);
}

#[test]
fn who_leaves_holds_nobody_up() {
    let mut line = Line::default();
    let gone = line.enter(blob(1), &[client(1), client(2)], (1, 1));
    line.enter(blob(2), &[], (0, 2));
    line.leave(gone);
    line.leave(gone);
    line.join(&blob(1), client(3));
    assert_eq!(order(&mut line), [(0, 2)]);
    assert!(line.lanes.is_empty() && line.round.is_empty() && line.by_digest.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Enter(Vec<u8>),
    Join(prop::sample::Index, u8),
    Leave(prop::sample::Index),
    Next,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(0u8..12, 0..12).prop_map(Step::Enter),
        1 => (any::<prop::sample::Index>(), 0u8..12).prop_map(|(which, who)| Step::Join(which, who)),
        1 => any::<prop::sample::Index>().prop_map(Step::Leave),
        2 => Just(Step::Next),
    ]
}

proptest! {
    /// Every ticket comes once or leaves; none is lost, none is left in a lane; and nobody waits for longer than it takes
    /// to serve all others once.
    #[test]
    fn everybody_comes_once_and_soon(steps in prop::collection::vec(step(), 1..80)) {
        let mut line = Line::default();
        let mut held: Vec<u64> = Vec::new();
        for (number, step) in (0u32..).zip(steps) {
            match step {
                Step::Enter(clients) => {
                    let clients: Vec<_> = clients.into_iter().map(client).collect();
                    // The token is what the next ticket will be.
                    let token = line.tickets_ever + 1;
                    held.push(line.enter(blob(number), &clients, token));
                }
                Step::Join(which, who) if !held.is_empty() => {
                    let digest = line.waiting[which.get(&held)].digest;
                    line.join(&digest, client(who));
                }
                Step::Leave(which) if !held.is_empty() => {
                    let ticket = held.remove(which.index(held.len()));
                    line.leave(ticket);
                }
                Step::Next => {
                    let next = line.next();
                    prop_assert_eq!(next.is_some(), !held.is_empty());
                    held.retain(|ticket| Some(*ticket) != next);
                }
                Step::Join(..) | Step::Leave(_) => {}
            }
            prop_assert_eq!(line.round.len(), line.lanes.len());
            prop_assert!(line.waiting.keys().eq(held.iter()));
            prop_assert!(line.waiting.values().all(|waiting| (1..=CLIENTS_MAX).contains(&waiting.clients.len())));
        }
        let clients: Vec<Client> = line.round.iter().copied().collect();
        let mut first = clients.clone();
        for _ in 0..clients.len() {
            let Some(ticket) = line.waiting.values().next().map(|_| line.round[0]) else { break };
            first.retain(|other| *other != ticket);
            line.next();
            first.retain(|other| line.lanes.contains_key(other));
        }
        prop_assert!(first.is_empty(), "{:?} had no turn in a round", first);
        while line.next().is_some() {}
        prop_assert!(line.lanes.is_empty() && line.round.is_empty() && line.by_digest.is_empty());
    }
}
