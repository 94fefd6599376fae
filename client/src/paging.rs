//! Lists that come in pages.

use std::future::Future;

use crate::error::Error;

/// Most items of a page.
pub(crate) const PAGE: u32 = 1_000;

/// Everything that a list has: asks for one page after the other, by the token of the page before; the first has none.
pub(crate) async fn all<T, F>(mut fetch: impl FnMut(String) -> F) -> Result<Vec<T>, Error>
where
    F: Future<Output = Result<(Vec<T>, String), Error>>,
{
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let (page, next) = fetch(page_token.clone()).await?;
        found.extend(page);
        match next_token(&page_token, next)? {
            Some(next) => page_token = next,
            None => return Ok(found),
        }
    }
}

/// The token of the next page, if there is one.
pub(crate) fn next_token(current: &str, next: String) -> Result<Option<String>, Error> {
    if !next.is_empty() && next == current {
        return Err(Error::protocol("the token of the next page is that of this page"));
    }
    Ok(Some(next).filter(|next| !next.is_empty()))
}
