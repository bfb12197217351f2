//! The tags of a repository.

use robot_env_diag::{Error, Kind, Result, Within as _};
use robot_env_oci::{MANIFEST_LIMIT, Reference, Repository};
use serde::Deserialize;
use ureq::http::{Method, StatusCode, header};

use crate::client::{Client, Endpoint, Patience, unexpected};
use crate::link;
use crate::token::Scope;
use crate::transport::{Call, Failure, excerpt};

/// How many pages are read.
const PAGE_LIMIT: u32 = 1000;
/// How many tags are read in all.
const TAG_LIMIT: usize = 100_000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Client {
    /// All tags of the repository, in the order of the registry. A list that does not end is an
    /// error, and so is a tag that is none.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<String>> {
        self.try_each(repository, |endpoint| self.tags_at(endpoint, repository))
            .within(|| format!("cannot list the tags of `{}`", repository.familiar()))
    }

    fn tags_at(&self, endpoint: &Endpoint, repository: &Repository) -> Result<Vec<String>> {
        let bad = |why: String| {
            Error::new(Kind::Corrupt, format!("registry `{}` gives a bad list", endpoint.host()))
                .because(Error::new(Kind::Corrupt, why))
        };
        let mut url = endpoint.url(&format!("{}/tags/list", repository.path())).with_query("n", "1000");
        let patience = if endpoint.mirror { Patience::None } else { Patience::Full };
        let mut out = Vec::new();
        for _ in 0..PAGE_LIMIT {
            let answer = self.call(endpoint, &Scope::pull(repository), patience, &mut || {
                Ok(Call::new(Method::GET, url.clone()))
            })?;
            if answer.status != StatusCode::OK {
                return Err(unexpected(answer));
            }
            let link = answer.header(header::LINK).and_then(link::next).map(str::to_owned);
            let base = answer.url.clone();
            let body = answer.read_to(MANIFEST_LIMIT).map_err(Failure::into_error)?;
            let page: Page = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
            let page = page.tags.unwrap_or_default();
            if let Some(tag) = page.iter().find(|tag| Reference::with_tag(repository.clone(), tag).is_err()) {
                return Err(bad(format!("`{}` is not a tag", excerpt(tag))));
            }
            let empty = page.is_empty();
            out.extend(page);
            if out.len() > TAG_LIMIT {
                return Err(bad(format!("it has more than {TAG_LIMIT} tags")));
            }
            let Some(link) = link.filter(|_| !empty) else { return Ok(out) };
            let next =
                base.join(&link).ok_or_else(|| bad("the link to its next page is malformed".into()))?;
            if next.origin != endpoint.origin {
                return Err(bad(format!(
                    "its next page lies on another host, `{}`",
                    excerpt(&next.origin.to_string())
                )));
            }
            url = next;
        }
        Err(bad(format!("it has more than {PAGE_LIMIT} pages")))
    }
}
