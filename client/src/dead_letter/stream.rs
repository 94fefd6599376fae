//! Entries as streams: page after page, or as the broker sends them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sawlog_proto::v1;
use tokio_stream::Stream;
use tonic::Streaming;

use super::types::Entry;
use crate::connection::Client;
use crate::error::Error;
use crate::paging::next_token;

type Page = Pin<Box<dyn Future<Output = Result<v1::ListEntriesResponse, Error>> + Send>>;

enum Paging {
    /// The next page is to be asked for.
    Next,
    Asking(Page),
    Ended,
}

/// Entries of a group, asked for page after page as they are taken.
pub struct Entries {
    client: Client,
    request: v1::ListEntriesRequest,
    queue: VecDeque<Entry>,
    state: Paging,
}

impl Entries {
    pub(super) fn new(client: Client, request: v1::ListEntriesRequest) -> Self {
        Self { client, request, queue: VecDeque::new(), state: Paging::Next }
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("group", &self.request.group).finish_non_exhaustive()
    }
}

impl Stream for Entries {
    type Item = Result<Entry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(entry) = this.queue.pop_front() {
                return Poll::Ready(Some(Ok(entry)));
            }
            match &mut this.state {
                Paging::Ended => return Poll::Ready(None),
                Paging::Next => {
                    let (client, request) = (this.client.clone(), this.request.clone());
                    this.state = Paging::Asking(Box::pin(async move {
                        let ask = || {
                            let (mut calls, request) = (client.dead_letter_calls(), request.clone());
                            async move { calls.list_entries(request).await }
                        };
                        client.repeat(ask).await
                    }));
                }
                Paging::Asking(page) => {
                    let answer = ready!(page.as_mut().poll(context));
                    this.state = Paging::Ended;
                    let page = answer?;
                    this.queue.extend(page.entries.into_iter().map(Entry::from_wire));
                    if let Some(next) = next_token(&this.request.page_token, page.next_page_token)? {
                        this.request.page_token = next;
                        this.state = Paging::Next;
                    }
                }
            }
        }
    }
}

/// Entries with their records, as the broker sends them.
#[derive(Debug)]
pub struct Export {
    stream: Box<Streaming<v1::ExportResponse>>,
    queue: VecDeque<Entry>,
}

impl Export {
    pub(super) fn new(stream: Streaming<v1::ExportResponse>) -> Self {
        Self { stream: Box::new(stream), queue: VecDeque::new() }
    }
}

impl Stream for Export {
    type Item = Result<Entry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.queue.pop_front() {
                return Poll::Ready(Some(Ok(entry)));
            }
            match ready!(Pin::new(&mut self.stream).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(Error::from_status(&status)))),
                Some(Ok(page)) => self.queue.extend(page.entries.into_iter().map(Entry::from_wire)),
            }
        }
    }
}
