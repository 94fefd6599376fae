//! The budget of bytes in flight, and the high watermark: turn, wake-up, drop.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::budget::InFlight;
use super::watermark::Watermark;
use super::{Offset, Permit};

#[derive(Default)]
struct Counter(AtomicU32);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counter() -> (Arc<Counter>, Waker) {
    let counter = Arc::new(Counter::default());
    (Arc::clone(&counter), Waker::from(counter))
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("a small number is an offset")
}

#[test]
fn bytes_are_given_back_when_the_permit_is_dropped() {
    let budget = InFlight::new(100);
    let permit = budget.try_acquire(60).expect("all is free");
    assert_eq!(budget.held(), 60);
    assert!(budget.try_acquire(41).is_none());
    drop(budget.try_acquire(40).expect("just so many"));
    drop(permit);
    assert_eq!(budget.held(), 0);
    assert_eq!(Permit::default().bytes(), 0);
}

#[test]
fn a_request_above_the_limit_takes_all_of_it_instead_of_waiting_for_ever() {
    let budget = InFlight::new(100);
    assert_eq!(budget.try_acquire(1_000).expect("all is free").bytes(), 100);
}

#[test]
fn a_permit_can_be_split_among_parts() {
    let budget = InFlight::new(100);
    let mut permit = budget.try_acquire(70).expect("all is free");
    let part = permit.split(50);
    assert_eq!((permit.bytes(), part.bytes(), permit.split(90).bytes()), (20, 50, 20));
    assert_eq!(budget.held(), 50, "the part of 20 is gone already");
    drop(part);
    assert_eq!(budget.held(), 0);
}

#[test]
fn those_who_wait_are_served_in_turn_and_a_large_request_is_not_starved() {
    let budget = InFlight::new(100);
    let held = budget.try_acquire(50).expect("all is free");
    let (woken, waker) = counter();
    let mut context = Context::from_waker(&waker);
    let mut large = pin!(budget.acquire(80));
    let mut small = pin!(budget.acquire(10));
    assert!(large.as_mut().poll(&mut context).is_pending());
    assert!(small.as_mut().poll(&mut context).is_pending(), "it would fit, but has come later");
    assert!(budget.try_acquire(1).is_none(), "nobody overtakes");
    drop(held);
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    let Poll::Ready(large) = large.as_mut().poll(&mut context) else { panic!("its turn") };
    assert!(small.as_mut().poll(&mut context).is_ready());
    assert_eq!(large.bytes(), 80);
}

#[test]
fn d_8_a_wait_that_is_dropped_gives_its_place_and_its_bytes_on() {
    let budget = InFlight::new(100);
    let held = budget.try_acquire(100).expect("all is free");
    let (_, waker) = counter();
    let mut context = Context::from_waker(&waker);
    let mut first = Box::pin(budget.acquire(90));
    let mut second = pin!(budget.acquire(90));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    drop(held);
    assert_eq!(budget.held(), 90, "granted to the first");
    drop(first);
    assert!(second.as_mut().poll(&mut context).is_ready());
    assert_eq!(budget.held(), 0, "the permit was dropped with the answer");
}

#[test]
fn a_part_of_a_budget_is_bounded_by_both() {
    let all = InFlight::new(100);
    let (one, other) = (all.part(80), all.part(80));
    let permit = one.try_acquire(80).expect("all is free");
    assert_eq!((all.held(), one.held()), (80, 80));
    assert!(other.try_acquire(30).is_none(), "the whole has 20 left");
    assert_eq!((all.held(), other.held()), (80, 0));
    let (_, waker) = counter();
    let mut context = Context::from_waker(&waker);
    let mut waiting = Box::pin(other.acquire(30));
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    assert_eq!(other.held(), 30, "its own part is granted");
    drop(waiting);
    assert_eq!((all.held(), other.held()), (80, 0), "given up in both");
    drop(permit);
    assert_eq!((all.held(), one.held()), (0, 0));
}

#[test]
fn d_3_the_watermark_wakes_those_below_it_and_no_others() {
    let watermark = Watermark::new(offset(5));
    let (woken, waker) = counter();
    let mut context = Context::from_waker(&waker);
    let mut near = pin!(watermark.beyond(offset(5)));
    let mut far = pin!(watermark.beyond(offset(9)));
    assert!(near.as_mut().poll(&mut context).is_pending());
    assert!(far.as_mut().poll(&mut context).is_pending());
    watermark.advance(offset(5));
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    watermark.advance(offset(8));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert_eq!(near.as_mut().poll(&mut context), Poll::Ready(offset(8)));
    assert!(far.as_mut().poll(&mut context).is_pending());
    watermark.advance(offset(3));
    assert_eq!(watermark.get(), offset(8), "it never falls but by a cut");
    watermark.close();
    assert_eq!(far.as_mut().poll(&mut context), Poll::Ready(offset(8)));
}

#[test]
fn a_thousand_idle_followers_cost_an_append_one_look() {
    let watermark = Watermark::new(offset(0));
    let (woken, waker) = counter();
    let mut context = Context::from_waker(&waker);
    let mut followers: Vec<_> = (0..1_000).map(|_| Box::pin(watermark.beyond(offset(1_000)))).collect();
    for follower in &mut followers {
        assert!(follower.as_mut().poll(&mut context).is_pending());
    }
    for value in 1..=1_000 {
        watermark.advance(offset(value));
    }
    assert_eq!(woken.0.load(Ordering::SeqCst), 0, "nobody is woken for what he does not wait for");
    followers.truncate(1);
    watermark.advance(offset(1_001));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "those that went away are not woken");
}
