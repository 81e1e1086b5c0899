//! Batches that share a message because as many as may be are under way.

use super::*;

/// An owner with as many messages of one record under way as may be, and what comes next.
fn busy() -> (Owner, VecDeque<Outgoing>, Position) {
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let next = 1 + UNDER_WAY_MAX as u64;
    let sent = (1..next).map(|first| append_one(&mut owner, first, first));
    let sent = sent.collect();
    (owner, sent, next)
}

/// The first message is refused, with `error`, and then the last one that was handed over.
fn refuse_last(owner: &mut Owner, sent: &mut VecDeque<Outgoing>, error: &StoreError) {
    let last = sent.pop_back().expect("one is under way");
    for (offset, out) in (1..).zip(sent.drain(..)) {
        let now = Instant::now();
        owner.live.delivered(out.token, offset, now).expect("whole");
    }
    owner.live.failed(last.token, error);
    owner.give_answers();
}

fn answers_from(owner: &Owner, id: u64) -> Vec<Result<Commit, StoreError>> {
    let answers = owner.answers.lock();
    let from = answers.iter().filter(|(of, _)| *of >= id);
    from.map(|(_, answer)| answer.clone()).collect()
}

#[test]
fn what_is_given_while_enough_is_under_way_shares_a_message() {
    let (mut owner, mut sent, next) = busy();
    let ids = [20, 21, 22];
    for (first, id) in [(next, 20), (next + 2, 21), (next + 4, 22)] {
        append_to(&mut owner, batch(first, 2, id), id);
        assert!(!owner.live.has_outgoing(), "enough is under way");
        assert!(owner.live.outgoing().is_none());
    }
    let now = Instant::now();
    for (offset, out) in (1..).zip(sent.drain(..)) {
        owner.live.delivered(out.token, offset, now).expect("whole");
    }
    assert!(owner.live.has_outgoing());
    let out = owner.live.outgoing().expect("sent");
    assert_eq!(ids_of(&out.message), BTreeSet::from(ids));
    assert!(owner.live.outgoing().is_none(), "there is no other");
    owner.live.delivered(out.token, next, now).expect("whole");
    owner.give_answers();
    for (answer, first) in answers_from(&owner, 20)
        .into_iter()
        .zip([next, next + 2, next + 4])
    {
        let commit = answer.expect("committed");
        assert_eq!(
            (commit.first, commit.next, commit.shared),
            (first, first + 2, 6)
        );
        assert!(commit.bytes > 0 && (commit.bytes as usize) < out.message.len() / 2);
    }
    assert_eq!(answers_from(&owner, 20).len(), 3);
    let told = owner
        .answers
        .lock()
        .iter()
        .map(|(id, _)| *id)
        .collect::<Vec<_>>();
    assert!(
        told.is_sorted(),
        "in the order in which they were given: {told:?}"
    );
    // Everybody reads it so.
    let read = frame::records(
        &read_message(SHARD, &out.message).expect("whole").0,
        &out.message,
        next,
        0,
    );
    assert_eq!(read.expect("whole").len(), 6);
    assert!(!owner.live.is_waiting());
}

#[test]
fn what_was_gathered_behind_a_certain_refusal_is_refused_too_and_may_be_given_again() {
    let (mut owner, mut sent, next) = busy();
    append_to(&mut owner, batch(next, 1, 20), 20);
    append_to(&mut owner, batch(next + 1, 1, 21), 21);
    let refused = StoreError::Unavailable { cause: "x".into() };
    refuse_last(&mut owner, &mut sent, &refused);
    assert_eq!(answers_from(&owner, next - 1), vec![Err(refused); 3]);
    assert!(
        owner.live.outgoing().is_none(),
        "nothing of it is handed over"
    );
    assert!(owner.live.is_owner(), "nothing of it is under way");
    append_one(&mut owner, next - 1, 30);
}

#[test]
fn what_was_gathered_behind_a_failure_is_never_handed_over() {
    let (mut owner, mut sent, next) = busy();
    append_to(&mut owner, batch(next, 1, 20), 20);
    let unknown = StoreError::OutcomeUnknown { cause: "x".into() };
    refuse_last(&mut owner, &mut sent, &unknown);
    let answers = answers_from(&owner, next - 1);
    let is_unknown =
        |answer: &Result<_, _>| matches!(answer, Err(StoreError::OutcomeUnknown { .. }));
    assert!(
        answers.len() == 2 && answers.iter().all(is_unknown),
        "{answers:?}"
    );
    assert!(!owner.live.has_outgoing() && owner.live.outgoing().is_none());
    assert!(!owner.live.is_owner(), "it acquires again");
    // Nor behind a newer ownership.
    let (mut owner, _, next) = busy();
    append_to(&mut owner, batch(next, 1, 20), 20);
    let (newer, _) = acquire(&mut owner_of(2), 0, 0);
    owner.live.seen(1, newer, Instant::now()).expect("whole");
    owner.give_answers();
    let answers = answers_from(&owner, 1);
    let is_fenced = |answer: &Result<_, _>| matches!(answer, Err(StoreError::Fenced { .. }));
    assert!(
        answers.len() == UNDER_WAY_MAX + 1 && answers.iter().all(is_fenced),
        "{answers:?}"
    );
    assert!(!owner.live.has_outgoing() && owner.live.outgoing().is_none());
}

#[test]
fn batches_that_were_too_large_together_are_not_called_too_large() {
    let too_large = StoreError::TooLarge { size: 9, limit: 8 };
    let (mut owner, mut sent, next) = busy();
    append_to(&mut owner, batch(next, 1, 20), 20);
    append_to(&mut owner, batch(next + 1, 1, 21), 21);
    for (offset, out) in (1..).zip(sent.drain(..)) {
        owner
            .live
            .delivered(out.token, offset, Instant::now())
            .expect("whole");
    }
    let shared = owner.live.outgoing().expect("sent");
    owner.live.failed(shared.token, &too_large);
    owner.give_answers();
    for answer in answers_from(&owner, 20) {
        assert!(
            matches!(answer, Err(StoreError::Unavailable { .. })),
            "{answer:?}"
        );
    }
    let alone = append_one(&mut owner, next, 30);
    owner.live.failed(alone.token, &too_large);
    owner.give_answers();
    assert_eq!(answers_from(&owner, 30), [Err(too_large)]);
}

#[test]
fn a_message_holds_no_more_than_a_batch_may() {
    let large = |position, id| {
        let mut record = contract::message(position, "room:a", position, 600_000);
        record.data_version = id;
        vec![record]
    };
    let (mut owner, mut sent, next) = busy();
    append_to(&mut owner, large(next, 20), 20);
    append_to(&mut owner, large(next + 1, 21), 21);
    append_to(&mut owner, batch(next + 2, 4000, 22), 22);
    append_to(&mut owner, batch(next + 4002, 97, 23), 23);
    let mut offset = 0;
    let mut shares = Vec::new();
    while let Some(out) = sent.pop_front() {
        offset += 1;
        owner
            .live
            .delivered(out.token, offset, Instant::now())
            .expect("whole");
        while let Some(out) = owner.live.outgoing() {
            shares.push(ids_of(&out.message).into_iter().collect::<Vec<_>>());
            sent.push_back(out);
        }
    }
    assert_eq!(shares, [vec![20], vec![21, 22], vec![23]]);
    owner.give_answers();
    assert!(answers_from(&owner, 20).iter().all(Result::is_ok));
    // What waits is bounded.
    let (mut owner, _, next) = busy();
    for n in 0..40 {
        append_to(&mut owner, large(next + n, 20 + n), 20 + n);
    }
    owner.give_answers();
    let refused = answers_from(&owner, 20);
    assert!(
        matches!(refused[0], Err(StoreError::Backpressure { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_question_goes_ahead_of_what_was_gathered() {
    let (mut owner, mut sent, next) = busy();
    append_to(&mut owner, batch(next, 1, 20), 20);
    let fence = owner.fence.clone();
    let asked = owner.live.confirm(&fence).expect("sent");
    sent.push_back(asked.clone());
    let now = Instant::now();
    for (offset, out) in (1..).zip(sent.drain(..)) {
        owner.live.delivered(out.token, offset, now).expect("whole");
    }
    assert_eq!(owner.live.confirmed(asked.token), Some(Ok(())));
    assert_eq!(owner.live.counts.passed_over, 0, "it stands where it says");
    let out = owner.live.outgoing().expect("sent");
    owner
        .live
        .delivered(out.token, next + 1, now)
        .expect("whole");
    owner.give_answers();
    assert!(matches!(answers_from(&owner, 20)[..], [Ok(_)]));
}
