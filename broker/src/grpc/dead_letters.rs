//! DeadLetterService: dead letters and the jobs that deliver them again.
//!
//! Export has a body of its own (`raw_body.rs`), so that who does not read it is cut like any reader.

use std::sync::Arc;

use http::{HeaderValue, header};
use sawlog_proto::v1::{self, dead_letter_service_server::DeadLetterService};
use tonic::body::Body;
use tonic::codegen::tokio_stream;
use tonic::{Request, Response, Status};

use super::convert_groups::{NOTE_BYTES, text};
use super::groups::{caller, page_size};
use super::raw_body::{Chunks, ReadBody, Sink};
use super::status::{self, Problem};
use super::{Context, convert_letters, ids, read};
use crate::coordinator::GroupError;
use crate::coordinator::types::EntryKey;
use crate::dead_letter::handle::GroupHandle;
use crate::dead_letter::views::{JobId, PageRequest, Selector};
use crate::limits;
use crate::model::GroupId;

/// Bytes of records in one answer.
const PAGE_BYTES: usize = 1 << 20;
/// Entries of one message of an export.
const EXPORT_PAGE: usize = 500;

type Group = Arc<dyn GroupHandle>;

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct LetterHandler(pub(super) Arc<Context>);

fn job_id(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|_| status::job_not_found(text))
}

/// Who acts: what the request says, or what the client says it is.
fn actor<T>(request: &Request<T>, given: &str) -> Result<String, Problem> {
    if given.is_empty() {
        return Ok(caller(request, "")?.actor);
    }
    text("actor", given.to_owned(), limits::CLIENT_ID_BYTES)
}

impl LetterHandler {
    fn answer<T>(&self, result: Result<T, Problem>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|problem| self.0.fail(problem))
    }

    fn group(&self, name: &str) -> Result<Group, Problem> {
        Ok(self.0.coordinator().handle(name)?)
    }

    /// An entry and its group.
    fn entry(&self, dlq_id: &str) -> Result<(Group, EntryKey), Problem> {
        let (group, key) = ids::parse_dlq_id("dlq_id", dlq_id)?;
        let handle = self.0.coordinator().handle_of(group).map_err(|error| match error {
            GroupError::NotFound { .. } => status::entry_not_found(dlq_id),
            error => error.into(),
        })?;
        Ok((handle, key))
    }

    fn selected(&self, group: &str, selector: Option<v1::EntrySelector>) -> Result<(Group, Selector), Problem> {
        let group = self.group(group)?;
        let selector = convert_letters::selector(group.id(), selector.unwrap_or_default())?;
        Ok((group, selector))
    }

    async fn list(&self, request: v1::ListEntriesRequest) -> Result<v1::ListEntriesResponse, Problem> {
        let limit = page_size(request.page_size)?;
        let (group, selector) = self.selected(&request.group, request.selector)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(ids::parse_dlq_id("page_token", token)?.1),
        };
        let page = PageRequest { after, limit, with_records: request.with_records, max_bytes: PAGE_BYTES };
        let page = self.0.letters().list(&group, &selector, page).await.map_err(|error| letter(group.id(), error))?;
        let next_page_token = page.next.map(|next| ids::dlq_id(group.id(), &next)).unwrap_or_default();
        let entries = page.entries.into_iter().map(convert_letters::entry).collect();
        Ok(v1::ListEntriesResponse { entries, next_page_token })
    }

    async fn get(&self, request: &v1::GetEntryRequest) -> Result<v1::GetEntryResponse, Problem> {
        let (group, key) = self.entry(&request.dlq_id)?;
        let details = self.0.letters().get(&group, key).await.map_err(|error| letter(group.id(), error))?;
        Ok(convert_letters::details(details))
    }

    async fn edit(&self, request: v1::EditEntryRequest, actor: String) -> Result<v1::EditEntryResponse, Problem> {
        let (group, _) = self.entry(&request.dlq_id)?;
        let edit = convert_letters::edit(group.id(), request, actor)?;
        let edited = self.0.letters().edit(&group, edit).await;
        let (view, version) = edited.map_err(|error| letter(group.id(), error))?;
        Ok(v1::EditEntryResponse { entry: Some(convert_letters::entry(view)), version })
    }

    async fn skip(&self, request: v1::SkipHeadRequest, actor: &str) -> Result<v1::SkipHeadResponse, Problem> {
        let group = self.group(&request.group)?;
        let head = convert_letters::head(group.id(), request.head)?;
        let reason = reason(request.reason)?;
        let skipped = self.0.letters().skip_head(&group, &head, actor, &reason).await;
        let head = skipped.map_err(|error| letter(group.id(), error))?;
        let (head, dlq_id, _) = convert_letters::head_to_wire(group.id(), head);
        Ok(v1::SkipHeadResponse { head: Some(head), dlq_id })
    }

    async fn retry(&self, request: v1::RetryHeadRequest, actor: &str) -> Result<v1::RetryHeadResponse, Problem> {
        let group = self.group(&request.group)?;
        let head = convert_letters::head(group.id(), request.head)?;
        let head = self.0.letters().retry_head(&group, &head, actor).await;
        let head = head.map_err(|error| letter(group.id(), error))?;
        let (head, dlq_id, job_id) = convert_letters::head_to_wire(group.id(), head);
        Ok(v1::RetryHeadResponse { head: Some(head), dlq_id, job_id })
    }

    async fn give_up(&self, request: v1::DiscardRequest, actor: &str) -> Result<v1::DiscardResponse, Problem> {
        let (group, selector) = self.selected(&request.group, request.selector)?;
        let reason = match request.dry_run {
            true => text("reason", request.reason, NOTE_BYTES)?,
            false => reason(request.reason)?,
        };
        let discarded = self.0.letters().discard(&group, &selector, actor, &reason, request.dry_run).await;
        let discarded = discarded.map_err(|error| letter(group.id(), error))?;
        Ok(v1::DiscardResponse { discarded: discarded.entries, keys_live: discarded.lanes_live })
    }

    async fn redrive(
        &self,
        request: v1::StartRedriveRequest,
        actor: String,
    ) -> Result<v1::StartRedriveResponse, Problem> {
        use v1::start_redrive_response::Result as Wire;
        let (group, dry_run) = (self.group(&request.group)?, request.dry_run);
        let request = convert_letters::redrive(group.id(), request, actor)?;
        let failed = |error| letter(group.id(), error);
        let result = match dry_run {
            true => {
                let preview = self.0.letters().preview_redrive(&group, &request).await.map_err(failed)?;
                Wire::Preview(convert_letters::preview(preview))
            }
            false => {
                let job = self.0.letters().start_redrive(&group, request).await.map_err(failed)?;
                Wire::Job(convert_letters::job(job))
            }
        };
        Ok(v1::StartRedriveResponse { result: Some(result) })
    }

    fn jobs(&self, request: &v1::ListJobsRequest) -> Result<v1::ListJobsResponse, Problem> {
        let size = page_size(request.page_size)?;
        let group = match request.group.as_str() {
            "" => None,
            name => Some(self.group(name)?.id()),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(job_id(token)?),
        };
        let mut jobs = self.0.letters().jobs(group, request.running, after, size + 1);
        let more = jobs.len() > size;
        jobs.truncate(size);
        let next_page_token = match jobs.last() {
            Some(last) if more => last.id.to_string(),
            _ => String::new(),
        };
        Ok(v1::ListJobsResponse { jobs: jobs.into_iter().map(convert_letters::job).collect(), next_page_token })
    }

    /// Serves Export itself.
    pub(super) async fn serve_export(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let request: v1::ExportRequest = read::one_message(request).await?;
        let selected = self.selected(&request.group, request.selector);
        let (group, mut selector) = selected.map_err(|problem| self.0.fail(problem))?;
        if selector.states.is_empty() {
            selector.states = convert_letters::ALL_STATES.to_vec();
        }
        let sink = Sink::default();
        let driver = export(Arc::clone(&self.0), group, selector, sink.clone());
        let body = ReadBody::new(Arc::clone(&self.0), sink, Box::pin(driver));
        let mut response = http::Response::new(Body::new(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

/// Sends every entry that is selected, a page at a time.
async fn export(context: Arc<Context>, group: Group, selector: Selector, sink: Sink) -> Result<(), Problem> {
    let mut page = PageRequest { after: None, limit: EXPORT_PAGE, with_records: true, max_bytes: PAGE_BYTES };
    loop {
        if context.parts.draining.is_cancelled() {
            return Err(status::shutting_down());
        }
        let found = context.letters().list(&group, &selector, page).await;
        let found = found.map_err(|error| letter(group.id(), error))?;
        let entries: Vec<_> = found.entries.into_iter().map(convert_letters::entry).collect();
        if !entries.is_empty() {
            sink.send(Chunks::message(&v1::ExportResponse { entries })).await;
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => return Ok(()),
        }
    }
}

fn reason(reason: String) -> Result<String, Problem> {
    if reason.trim().is_empty() {
        return Err(status::invalid_field("reason", "nothing", "why it is given up"));
    }
    text("reason", reason, NOTE_BYTES)
}

fn letter(group: GroupId, error: crate::dead_letter::LetterError) -> Problem {
    status::letter(&|key: &EntryKey| ids::dlq_id(group, key), error)
}

#[tonic::async_trait]
impl DeadLetterService for LetterHandler {
    type ExportStream = tokio_stream::Empty<Result<v1::ExportResponse, Status>>;

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        self.answer(self.list(request.into_inner()).await)
    }

    async fn get_entry(&self, request: Request<v1::GetEntryRequest>) -> Result<Response<v1::GetEntryResponse>, Status> {
        self.answer(self.get(request.get_ref()).await)
    }

    async fn edit_entry(
        &self,
        request: Request<v1::EditEntryRequest>,
    ) -> Result<Response<v1::EditEntryResponse>, Status> {
        let actor = actor(&request, &request.get_ref().actor).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.edit(request.into_inner(), actor).await)
    }

    async fn skip_head(&self, request: Request<v1::SkipHeadRequest>) -> Result<Response<v1::SkipHeadResponse>, Status> {
        let actor = actor(&request, &request.get_ref().actor).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.skip(request.into_inner(), &actor).await)
    }

    async fn retry_head(
        &self,
        request: Request<v1::RetryHeadRequest>,
    ) -> Result<Response<v1::RetryHeadResponse>, Status> {
        let actor = actor(&request, &request.get_ref().actor).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.retry(request.into_inner(), &actor).await)
    }

    async fn discard(&self, request: Request<v1::DiscardRequest>) -> Result<Response<v1::DiscardResponse>, Status> {
        let actor = actor(&request, &request.get_ref().actor).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.give_up(request.into_inner(), &actor).await)
    }

    async fn export(&self, _request: Request<v1::ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        // Export has a path of its own; see `serve_export`.
        Err(Status::unimplemented("Export is served elsewhere"))
    }

    async fn start_redrive(
        &self,
        request: Request<v1::StartRedriveRequest>,
    ) -> Result<Response<v1::StartRedriveResponse>, Status> {
        let actor = actor(&request, &request.get_ref().actor).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.redrive(request.into_inner(), actor).await)
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        let job = job_id(&request.get_ref().job_id).and_then(|id| Ok(self.0.letters().job(id)?));
        self.answer(job.map(|job| v1::GetJobResponse { job: Some(convert_letters::job(job)) }))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        self.answer(self.jobs(request.get_ref()))
    }

    async fn pause_job(&self, request: Request<v1::PauseJobRequest>) -> Result<Response<v1::PauseJobResponse>, Status> {
        let id = job_id(&request.get_ref().job_id).map_err(|problem| self.0.fail(problem))?;
        let job = self.0.letters().pause_job(id).await.map_err(Problem::from);
        self.answer(job.map(|job| v1::PauseJobResponse { job: Some(convert_letters::job(job)) }))
    }

    async fn resume_job(
        &self,
        request: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::ResumeJobResponse>, Status> {
        let id = job_id(&request.get_ref().job_id).map_err(|problem| self.0.fail(problem))?;
        let job = self.0.letters().resume_job(id).await.map_err(Problem::from);
        self.answer(job.map(|job| v1::ResumeJobResponse { job: Some(convert_letters::job(job)) }))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let id = job_id(&request.get_ref().job_id).map_err(|problem| self.0.fail(problem))?;
        let job = self.0.letters().cancel_job(id).await.map_err(Problem::from);
        self.answer(job.map(|job| v1::CancelJobResponse { job: Some(convert_letters::job(job)) }))
    }
}
