//! ConsumeService: one stream is one session of one member (rule GM-1).
//!
//! ```text
//! requests --> verbs.rs: check, number, hand to the session ----> coordinator
//! answers  <-- encode.rs <-- frames.rs: name, match with verbs <-- session.next()
//! ```
//!
//! One task does all of it, driven by the answer's body (`raw_body.rs`): it takes in what has come and what the session
//! has ready, and hands a buffer of whole messages over when there is nothing more, or when the buffer is full. It
//! takes in nothing while the client does not take what it was handed; who takes nothing for
//! [`crate::limits::WRITE_DEADLINE`] is cut and may resume (rule FC-8).
//!
//! It must not know how groups decide. Invariants: a verb that is refused is answered and never ends the stream; frames
//! out of order do, after what was decided before them is told.

mod encode;
mod frames;
mod verbs;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use sawlog_proto::v1::{self, consume_request::Frame as Asked};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic_prost::ProstCodec;

use self::encode::Outbox;
use self::verbs::Pending;
use super::gate::Permits;
use super::raw_body::{ReadBody, Sink};
use super::status::{self, Problem};
use super::{Context, convert_groups};
use crate::coordinator::types::{Mode, Verb};
use crate::coordinator::{Session, SessionFrame};
use crate::limits::{DELIVERY_FRAME_BYTES, GRPC_MESSAGE_BYTES};
use crate::model::Source;

/// The encoder of deliveries by itself, for benchmarks.
#[cfg(feature = "testing")]
#[derive(Debug, Default)]
pub struct DeliveryEncoder(Outbox);

#[cfg(feature = "testing")]
impl DeliveryEncoder {
    /// Encodes first deliveries of records as they are sent; gives the bytes.
    pub fn encode(&mut self, records: &[crate::coordinator::DeliveredRecord]) -> usize {
        let items: Vec<_> =
            records.iter().map(|record| encode::Item { record, attempt: 1, replay: false, extra: None }).collect();
        self.0.records(encode::Head { source_id: 1, epoch: 7, max_attempts: 6, replay_id: "" }, &items, None);
        self.0.take().len()
    }
}

/// Request frames taken in before answers get their turn.
const INTAKE: u32 = 64;
/// Bytes of answers at which they are handed over though more is ready.
const HAND_OVER_BYTES: usize = DELIVERY_FRAME_BYTES / 4;
/// Verbs that wait for their answers, above which no request is taken in.
const PENDING_VERBS: usize = 4_096;
/// The connection's task gets so many turns, so long, to take in what came, before a member is called silent.
const LISTEN: (u32, Duration) = (3, Duration::from_millis(1));
/// Time from the broker's goodbye to the end of the stream.
const GOODBYE: Duration = Duration::from_secs(1);

type Requests = Streaming<v1::ConsumeRequest>;

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct ConsumeHandler(pub(super) Arc<Context>);

impl ConsumeHandler {
    /// Serves Consume itself, in place of the generated service, whose encoder would copy every record twice.
    pub(super) fn serve(&self, request: Request<Body>, permits: Permits) -> Result<Response<Body>, Status> {
        if let Some(encoding) = request.headers().get("grpc-encoding")
            && encoding != "identity"
        {
            return Err(Status::unimplemented("requests are not compressed here; batches are, from end to end"));
        }
        let decoder = ProstCodec::<v1::ConsumeResponse, v1::ConsumeRequest>::default().decoder();
        let requests = Streaming::new_request(decoder, request.into_body(), None, Some(GRPC_MESSAGE_BYTES));
        let sink = Sink::default();
        let driver = run(Arc::clone(&self.0), requests, permits, sink.clone());
        let body = ReadBody::new(Arc::clone(&self.0), sink, Box::pin(driver));
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

/// The sources of a session, numbered from 1 in the order in which they were named first.
#[derive(Debug, Default)]
struct Sources {
    ids: HashMap<Source, u32>,
    list: Vec<Source>,
}

impl Sources {
    fn id(&mut self, source: Source) -> u32 {
        let list = &mut self.list;
        *self.ids.entry(source).or_insert_with(|| {
            list.push(source);
            list.len() as u32
        })
    }

    fn get(&self, id: u32) -> Option<Source> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        self.list.get(index).copied()
    }
}

/// A session and what of it this side keeps.
struct Stream {
    context: Arc<Context>,
    session: Session,
    /// Name of the group, for failures.
    group: String,
    mode: Mode,
    sources: Sources,
    pending: Pending,
    /// Pings not answered yet.
    pings: VecDeque<u64>,
    /// Sources of what the member said it has in work, to be named by `Joined`.
    in_work: Vec<Source>,
    outbox: Outbox,
    /// Why the session has ended or is about to.
    ended: Option<Problem>,
    /// The member goes: the session ends of itself.
    leaving: bool,
}

/// What comes next on a stream.
enum Next {
    Asked(Result<Option<v1::ConsumeRequest>, Status>),
    Doubted,
    Session(Option<SessionFrame>),
    HandOver,
    Drained,
}

/// The whole life of a stream; its end is the end of the stream.
async fn run(context: Arc<Context>, mut requests: Requests, permits: Permits, sink: Sink) -> Result<(), Problem> {
    let Some(mut stream) = join(&context, &mut requests, &permits).await? else { return Ok(()) };
    let result = stream.serve(&mut requests, &permits, &sink).await;
    // What was decided before a violation is told before it ends the stream.
    if !stream.outbox.is_empty() {
        sink.send(stream.outbox.take()).await;
    }
    result
}

/// Takes the first frame; `None`: the client ended the stream without one.
async fn join(context: &Arc<Context>, requests: &mut Requests, permits: &Permits) -> Result<Option<Stream>, Problem> {
    let first = tokio::select! {
        first = requests.message() => first,
        () = context.parts.draining.cancelled() => return Err(status::shutting_down()),
    };
    let _permit = permits.take();
    let Some(request) = first.map_err(Problem::from_client)? else { return Ok(None) };
    let Some(Asked::Join(join)) = request.frame else {
        return Err(status::protocol_violation("first frame", "a stream begins with Join"));
    };
    let group = join.group.clone();
    let batches = join.form() == v1::ReadForm::Batches;
    let join = convert_groups::join(join)?;
    let mut in_work: Vec<Source> = join.join.in_work.iter().map(|work| work.source).collect();
    in_work.dedup();
    let session = context.coordinator().join(join).await?;
    let mode = session.config().mode;
    if batches && mode != Mode::Offset {
        session.handle(Verb::Leave)?;
        return Err(status::wrong_mode(&group, mode, "Join with stored batches"));
    }
    let pending = Pending::starting_at(session.first_request());
    Ok(Some(Stream {
        context: Arc::clone(context),
        session,
        group,
        mode,
        sources: Sources::default(),
        pending,
        pings: VecDeque::new(),
        in_work,
        outbox: Outbox::default(),
        ended: None,
        leaving: false,
    }))
}

/// What the member has said meanwhile, after everything that had reached this machine was taken from the socket; `None`:
/// nothing.
async fn listen_again(requests: &mut Requests) -> Option<Result<Option<v1::ConsumeRequest>, Status>> {
    let (turns, pause) = LISTEN;
    for _ in 0..turns {
        // The socket is looked at, and its task runs, before a timer of the same turn.
        tokio::time::sleep(pause).await;
    }
    tokio::select! {
        biased;
        message = requests.message() => Some(message),
        () = std::future::ready(()) => None,
    }
}

impl Stream {
    async fn serve(&mut self, requests: &mut Requests, permits: &Permits, sink: &Sink) -> Result<(), Problem> {
        let draining = self.context.parts.draining.clone();
        let mut drained = std::pin::pin!(async move {
            draining.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        });
        let doubt = self.session.doubt();
        let (mut intake, mut asking) = (0, true);
        loop {
            let full = self.outbox.len() >= HAND_OVER_BYTES;
            let listen = asking && !full && intake < INTAKE && self.pending.len() < PENDING_VERBS;
            let next = tokio::select! {
                biased;
                () = &mut drained => Next::Drained,
                message = requests.message(), if listen => Next::Asked(message),
                () = doubt.raised(), if listen => Next::Doubted,
                frame = self.session.next(), if !full => Next::Session(frame),
                () = std::future::ready(()), if !self.outbox.is_empty() || intake >= INTAKE => Next::HandOver,
            };
            match next {
                Next::Drained => return Err(status::shutting_down()),
                Next::HandOver => {
                    intake = 0;
                    match self.outbox.is_empty() {
                        true => tokio::task::yield_now().await,
                        false => sink.send(self.outbox.take()).await,
                    }
                }
                Next::Asked(message) => {
                    intake += 1;
                    asking = self.take_in(message, permits).await?;
                }
                Next::Doubted => match listen_again(requests).await {
                    Some(message) => asking = self.take_in(message, permits).await?,
                    None => doubt.confirm(),
                },
                Next::Session(Some(frame)) => self.answer(frame),
                Next::Session(None) => return self.session_ended(),
            }
            if !asking && self.pending.is_empty() && self.ended.is_none() && !self.leaving {
                return Ok(());
            }
        }
    }

    /// Takes in what the member says; whether it may say more. Answers that are due then are still told.
    async fn take_in(
        &mut self,
        message: Result<Option<v1::ConsumeRequest>, Status>,
        permits: &Permits,
    ) -> Result<bool, Problem> {
        let _permit = permits.take();
        let Some(request) = message.map_err(Problem::from_client)? else { return Ok(false) };
        self.asked(request).await?;
        Ok(true)
    }

    /// Why the stream ends with its session.
    fn session_ended(&mut self) -> Result<(), Problem> {
        let stopped = || self.session.end_cause().map(Problem::from);
        match self.ended.take() {
            Some(problem) => Err(problem),
            None if self.leaving => Ok(()),
            None => stopped().map_or(Ok(()), Err),
        }
    }
}
