//! Sleeps that are shorter than the millisecond which the runtime's timers can tell apart.
//!
//! Owns: a timer of the operating system, which one sleeper has at a time. For others meanwhile, and where there is no such
//! timer, the runtime's serve: sleeps are longer then, never shorter.

use std::time::Duration;

/// Sleeps from which on the runtime's timers are good enough.
const COARSE: Duration = Duration::from_millis(4);

/// A timer, made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct FineSleep {
    #[cfg(target_os = "linux")]
    timer: std::sync::OnceLock<Option<linux::Timer>>,
}

impl FineSleep {
    /// Resolves after `wait`. For a runtime with a driver of timers and of input.
    pub(super) async fn sleep(&self, wait: Duration) {
        #[cfg(target_os = "linux")]
        if wait < COARSE
            && let Some(timer) = self.timer.get_or_init(linux::Timer::new)
            && let Ok(_taken) = timer.taken.try_acquire()
            && timer.sleep(wait).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;
    use tokio::sync::Semaphore;

    /// See `timerfd_create(2)`: a file that can be read once its time has come, as the runtime reads a pipe.
    #[derive(Debug)]
    pub(super) struct Timer {
        timer: OwnedFd,
        over: Receiver,
        /// Whoever sleeps by it: a second one would set it anew under the first.
        pub(super) taken: Semaphore,
    }

    impl Timer {
        pub(super) fn new() -> Option<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
            let over = Receiver::from_owned_fd_unchecked(timer.try_clone().ok()?).ok()?;
            Some(Self { timer, over, taken: Semaphore::new(1) })
        }

        /// Sets the timer anew and waits until it is over.
        pub(super) async fn sleep(&self, wait: Duration) -> io::Result<()> {
            // Zero would stop the timer.
            let it_value = Timespec::try_from(wait.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
            let once = Itimerspec { it_interval: Timespec::default(), it_value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
            loop {
                self.over.readable().await?;
                match self.over.try_read(&mut [0; 8]) {
                    Ok(_) => return Ok(()),
                    // That was of an earlier time.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_sleep_is_never_shorter_than_asked_also_after_one_that_was_given_up() {
        let timer = FineSleep::default();
        for wait_us in [0, 1, 50, 700, 5_000] {
            let mut given_up = Box::pin(timer.sleep(Duration::from_micros(300)));
            std::future::poll_fn(|task| {
                let _ = given_up.as_mut().poll(task);
                Poll::Ready(())
            })
            .await;
            // Its time comes, and nobody reads it.
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(given_up);
            let (wait, begin) = (Duration::from_micros(wait_us), tokio::time::Instant::now());
            timer.sleep(wait).await;
            assert!(begin.elapsed() >= wait, "{wait:?}");
        }
    }

    #[tokio::test]
    async fn several_sleepers_wake_each() {
        let timer = FineSleep::default();
        for _ in 0..20 {
            let both = async { tokio::join!(timer.sleep(COARSE / 2), timer.sleep(COARSE / 8)) };
            tokio::time::timeout(Duration::from_secs(10), both).await.expect("nobody is left waiting");
        }
    }
}
