//! The task of a consumer: one stream after the other, each joined or resumed, until the member leaves.
//!
//! What frames mean is decided by the board; here is only the I/O. Pings have a task of their own, so that no work
//! delays them (rule GM-7). A cut is mended with a jittered backoff; what was not answered is sent again (rule GM-8).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1::{self, consume_request::Frame as Say, consume_response::Frame as Told};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::board::Ending;
use super::builder::Settings;
use super::shared::{Shared, now};
use crate::connection::Client;
use crate::error::{Error, ErrorKind, ErrorReason};
use crate::groups::{GroupMode, Subscription};
use crate::retry::Retry;

/// Frames handed to the connection and not yet taken by it.
const QUEUE: usize = 64;
/// How long a stream may take until it is joined.
const JOIN: Duration = Duration::from_secs(15);
/// How long the end of a stream is waited for after `Leave`.
const LEAVE: Duration = Duration::from_secs(2);

/// How a stream came to its end.
enum End {
    /// The member has left.
    Left,
    /// Cut: try again.
    Cut(Error),
    /// No use in trying again.
    Fatal(Error),
}

/// What wakes a session.
enum Woken {
    Answer(Result<Option<v1::ConsumeResponse>, tonic::Status>),
    /// The board has something to send.
    Told,
    /// There is room for frames again.
    Room,
    Time,
}

type Answers = Streaming<v1::ConsumeResponse>;

/// A stream that is joined.
struct Stream {
    requests: mpsc::Sender<v1::ConsumeRequest>,
    answers: Answers,
    pings: JoinHandle<()>,
    /// Frames that found no room.
    waiting: VecDeque<v1::ConsumeRequest>,
    next_look: Instant,
    leaving: Option<Instant>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.pings.abort();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    settings: Settings,
    mode: GroupMode,
    member_id: String,
    shared: Arc<Shared>,
    member_epoch: Option<u64>,
    session_timeout: Duration,
    last_frame: Instant,
    reconnect_after: Option<Duration>,
    opened: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Session {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        mode: GroupMode,
        shared: Arc<Shared>,
        opened: oneshot::Sender<Result<(), Error>>,
    ) -> Self {
        let member_id = settings.member_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Self {
            client,
            settings,
            mode,
            member_id,
            shared,
            member_epoch: None,
            session_timeout: Duration::from_secs(10),
            last_frame: now(),
            reconnect_after: None,
            opened: Some(opened),
        }
    }

    pub(super) async fn run(mut self) {
        let ending = self.live().await;
        if let (Some(opened), Ending::Failed(error)) = (self.opened.take(), &ending) {
            let _ = opened.send(Err(error.clone()));
        }
        self.shared.with(|board| board.end(ending));
    }

    async fn live(&mut self) -> Ending {
        let mut retry = Retry::new();
        let began = now();
        loop {
            let error = match self.stream(&mut retry).await {
                End::Left => return Ending::Closed,
                End::Fatal(error) => return Ending::Failed(error),
                End::Cut(error) => error,
            };
            tracing::debug!(group = %self.settings.group, error = %error, "consume stream cut");
            self.shared.with(|board| board.cut());
            if self.opened.is_some() && began.elapsed() >= self.client.call_timeout() {
                return Ending::Failed(error);
            }
            let told = self.reconnect_after.take().max(error.retry_after());
            let until = now() + retry.next_wait(told);
            if self.pause(until).await {
                return Ending::Closed;
            }
        }
    }

    /// Waits before the next try; true if the member's time to leave is over meanwhile.
    async fn pause(&mut self, until: Instant) -> bool {
        loop {
            let leave_at = self.shared.with(|board| board.draining());
            let at = now();
            if leave_at.is_some_and(|leave_at| leave_at <= at) {
                return true;
            }
            if at >= until {
                return false;
            }
            let lost_at = self.suspend_if_lost(at);
            let wake_at = [leave_at, lost_at].into_iter().flatten().fold(until, Instant::min);
            tokio::select! {
                () = tokio::time::sleep_until(wake_at) => {}
                // The member is to leave.
                () = self.shared.session.notified() => {}
            }
        }
    }

    /// Without a stream for as long as the session lives, others may have what is held: nothing more of it begins.
    /// Returns when that will be.
    fn suspend_if_lost(&self, at: Instant) -> Option<Instant> {
        self.member_epoch?;
        let lost_at = self.last_frame + self.session_timeout;
        if at < lost_at {
            return Some(lost_at);
        }
        self.shared.with(|board| board.suspend());
        None
    }

    /// One stream, from its join to its end.
    async fn stream(&mut self, retry: &mut Retry) -> End {
        let mut stream = match self.join().await {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        retry.reset();
        loop {
            stream.push();
            let (draining, drained) = self.shared.with(|board| (board.draining(), board.is_drained()));
            let at = now();
            if let Some(deadline) = draining
                && stream.leaving.is_none()
                && stream.waiting.is_empty()
                && (drained || deadline <= at)
            {
                stream.waiting.push_back(v1::ConsumeRequest { frame: Some(Say::Leave(v1::Leave {})) });
                stream.leaving = Some(at + LEAVE);
                continue;
            }
            let silent_at = self.last_frame + self.session_timeout.max(Duration::from_secs(5));
            let full = !stream.waiting.is_empty();
            let (due, commits) = self.shared.with(|board| (board.next_due(), board.commits_due()));
            // Without room nothing is gathered.
            let timers =
                [due, commits.filter(|_| !full), draining.filter(|_| stream.leaving.is_none()), stream.leaving];
            let wake_at = timers.into_iter().flatten().fold(silent_at.min(stream.next_look), Instant::min);
            let woken = tokio::select! {
                biased;
                answer = stream.answers.message() => Woken::Answer(answer),
                () = self.shared.session.notified() => Woken::Told,
                _ = stream.requests.reserve(), if full => Woken::Room,
                () = tokio::time::sleep_until(wake_at) => Woken::Time,
            };
            let answer = match woken {
                Woken::Answer(answer) => answer,
                Woken::Room => continue,
                Woken::Told => {
                    // Others get their turn first: what they decide goes out with the same frames.
                    tokio::task::yield_now().await;
                    stream.flush(&self.shared);
                    continue;
                }
                Woken::Time => {
                    let at = now();
                    if at >= silent_at {
                        return End::Cut(Error::new(ErrorKind::Timeout, "the broker is silent"));
                    }
                    if stream.leaving.is_some_and(|leaving| leaving <= at) {
                        return End::Left;
                    }
                    stream.look(&self.shared, at);
                    continue;
                }
            };
            match answer {
                Ok(Some(answer)) => {
                    if let Err(error) = self.answered(&mut stream, answer) {
                        return End::Fatal(error);
                    }
                }
                Ok(None) | Err(_) if stream.leaving.is_some() => return End::Left,
                Ok(None) => return End::Cut(Error::new(ErrorKind::Unavailable, "the broker ended the stream")),
                Err(status) => return self.ended(Error::from_status(&status)),
            }
        }
    }

    fn answered(&mut self, stream: &mut Stream, answer: v1::ConsumeResponse) -> Result<(), Error> {
        let at = now();
        self.last_frame = at;
        match answer.frame {
            None | Some(Told::Pong(_)) => Ok(()),
            Some(Told::Goodbye(goodbye)) => {
                self.reconnect_after = Some(Duration::from_millis(goodbye.reconnect_after_ms.into()));
                Ok(())
            }
            Some(frame) => {
                let waiting = &mut stream.waiting;
                self.shared.with(|board| {
                    board.frame(frame, at)?;
                    if waiting.is_empty() {
                        board.flush(at, waiting);
                    }
                    Ok(())
                })
            }
        }
    }

    /// What the status of a stream means.
    fn ended(&mut self, error: Error) -> End {
        // The session is over, but not the member: it joins anew.
        if error.reason() == Some(ErrorReason::Fenced) {
            self.member_epoch = None;
            return End::Cut(error);
        }
        if error.is_retryable() { End::Cut(error) } else { End::Fatal(error) }
    }

    async fn join(&mut self) -> Result<Stream, End> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let join = v1::ConsumeRequest { frame: Some(Say::Join(self.join_frame())) };
        requests.try_send(join).expect("a new channel has room");
        let mut consume = self.client.consume();
        let joining = async {
            let mut answers = consume.consume(ReceiverStream::new(queue)).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, tonic::Status>((answers, first))
        };
        let deadline = now() + JOIN;
        tokio::pin!(joining);
        let joined = loop {
            let lost_at = self.suspend_if_lost(now());
            let leave_at = self.shared.with(|board| board.draining());
            let wake_at = [lost_at, leave_at].into_iter().flatten().fold(deadline, Instant::min);
            tokio::select! {
                joined = &mut joining => break joined,
                () = tokio::time::sleep_until(wake_at) => {
                    if leave_at.is_some_and(|leave_at| leave_at <= now()) {
                        return Err(End::Left);
                    }
                    if now() >= deadline {
                        return Err(End::Cut(Error::new(ErrorKind::Timeout, "the broker did not answer the join")));
                    }
                }
                // The member is to leave.
                () = self.shared.session.notified() => {}
            }
        };
        let (answers, first) = joined.map_err(|status| self.ended(Error::from_status(&status)))?;
        let Some(Told::Joined(joined)) = first.and_then(|first| first.frame) else {
            return Err(End::Cut(Error::protocol("the first frame of the broker is not Joined")));
        };
        self.joined(&joined, requests, answers)
    }

    fn joined(
        &mut self,
        joined: &v1::Joined,
        requests: mpsc::Sender<v1::ConsumeRequest>,
        answers: Answers,
    ) -> Result<Stream, End> {
        let at = now();
        self.last_frame = at;
        self.member_epoch = Some(joined.member_epoch);
        self.session_timeout = Duration::from_millis(u64::from(joined.session_timeout_ms).max(1000));
        let mut waiting = VecDeque::new();
        let look_every = self.shared.with(|board| {
            board.joined(joined, at)?;
            board.resend(&mut waiting);
            board.flush(at, &mut waiting);
            Ok(board.times().look_every())
        });
        let look_every = look_every.map_err(End::Fatal)?;
        let every = Duration::from_millis(u64::from(joined.ping_interval_ms).max(100));
        let pings = tokio::spawn(ping(requests.clone(), every));
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        }
        tracing::debug!(group = %self.settings.group, epoch = joined.member_epoch, resumed = joined.resumed, "joined");
        Ok(Stream { requests, answers, pings, waiting, next_look: at + look_every, leaving: None })
    }

    fn join_frame(&self) -> v1::Join {
        let settings = &self.settings;
        let expected_topics = match &settings.subscription {
            Some(Subscription::Topics(topics)) => topics.clone(),
            _ => Vec::new(),
        };
        let form = match self.mode {
            GroupMode::Offset => v1::ReadForm::Batches,
            GroupMode::Keyed | GroupMode::Unordered => v1::ReadForm::Records,
        };
        let (records, bytes) = self.shared.with(|board| board.credit());
        v1::Join {
            group: settings.group.clone(),
            member_id: self.member_id.clone(),
            member_epoch: self.member_epoch,
            instance_id: settings.instance_id.clone(),
            expected_mode: GroupMode::to_wire(Some(self.mode)),
            expected_topics,
            credit: Some(v1::Credit { records, bytes }),
            client_version: concat!("sawlog-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            client_id: settings.client_id.clone(),
            in_work: if self.member_epoch.is_some() { self.shared.with(|board| board.in_work()) } else { Vec::new() },
            form: form.into(),
            min_bytes: settings.min_bytes,
            max_wait_ms: u32::try_from(settings.max_wait.as_millis()).unwrap_or(60_000).min(60_000),
            version: None,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody waits for ever, also when the task is dropped with its runtime.
        self.shared.with(|board| board.end(Ending::Closed));
        self.shared.ended.cancel();
    }
}

impl Stream {
    /// Hands on what there is room for.
    fn push(&mut self) {
        while !self.waiting.is_empty() {
            let Ok(room) = self.requests.try_reserve() else { return };
            if let Some(frame) = self.waiting.pop_front() {
                room.send(frame);
            }
        }
    }

    /// Gathers what is to be sent, unless there is no room for more.
    fn flush(&mut self, shared: &Shared) {
        let waiting = &mut self.waiting;
        shared.with(|board| match waiting.is_empty() {
            true => board.flush(now(), waiting),
            false => board.session_looked(),
        });
    }

    /// Looks at leases and delays.
    fn look(&mut self, shared: &Shared, at: Instant) {
        let waiting = &mut self.waiting;
        let next_look = &mut self.next_look;
        shared.with(|board| {
            if at >= *next_look {
                board.tick(at);
                *next_look = at + board.times().look_every();
            }
            board.wake_due(at);
            if waiting.is_empty() {
                board.flush(at, waiting);
            }
        });
    }
}

/// Signs of life, whatever the member's work does.
async fn ping(requests: mpsc::Sender<v1::ConsumeRequest>, every: Duration) {
    for nonce in 1.. {
        tokio::time::sleep(every).await;
        let ping = v1::ConsumeRequest { frame: Some(Say::Ping(v1::Ping { nonce })) };
        if requests.send(ping).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
