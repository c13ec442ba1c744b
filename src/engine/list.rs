//! Lists: tags and the catalogue.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::outcome::{Outcome, Stale};
use super::{Denial, Engine, Repository, fault};
use crate::index::RepoKey;
use crate::registry::route::Page;
use crate::registry::{Code, Fault, Tag};
use crate::upstream::{FetchError, TagList};

/// Most tags of our own given to a client that names no number.
const KNOWN_TAGS_MAX: usize = 100_000;

/// How long a client waits for a list: Docker Hub takes tens of seconds for the longest.
const LIST_WAIT: Duration = Duration::from_secs(30);

/// Most lists that are fetched at once: each may have 16 MiB.
pub const LISTS_MAX: usize = 8;

/// A question for tags: repository, number, and the last one known.
pub type TagsQuestion = (RepoKey, Option<u32>, Option<String>);

/// What the upstream says.
pub type Tags = Result<Arc<TagList>, Arc<FetchError>>;

/// Names on a page of the catalogue for a client that names no number; as `registry`.
const CATALOG_PAGE: u32 = 100;

/// A page of tags.
#[derive(Debug, Clone)]
pub struct TagsPage {
    /// The tags, sorted.
    pub tags: Vec<String>,
    /// Query of the next page, if there is one.
    pub next: Option<Next>,
    /// Where they came from.
    pub outcome: Outcome,
}

/// A page of the catalogue.
#[derive(Debug, Clone)]
pub struct CatalogPage {
    /// Names of repositories, sorted.
    pub repositories: Vec<String>,
    /// Query of the next page, if there is one.
    pub next: Option<Next>,
}

/// The parameters of a next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The last entry of this page.
    pub last: String,
    /// The number of entries asked for.
    pub n: u32,
}

impl Engine {
    /// The tags of a repository: the upstream's, or those known here when it can't be asked. A number over the maximum is
    /// as good as the maximum.
    pub async fn tags(self: &Arc<Self>, repository: &Repository, page: &Page) -> Result<TagsPage, Denial> {
        let n = page.n.map(|n| n.min(self.tags_max));
        if n == Some(0) {
            return Ok(TagsPage { tags: Vec::new(), next: None, outcome: Outcome::Bypass });
        }
        let last = page.last.as_deref();
        match tokio::time::timeout(LIST_WAIT, self.ask_tags(repository, n, last)).await {
            Ok(Some(Ok(list))) => Ok(page_of(&list, n, last)),
            Ok(Some(Err(error))) => self
                .known_tags(repository, n, last, fault::staleness(&error))
                .ok_or_else(|| fault::no_tags(&repository.name, &error)),
            Ok(None) => {
                Err(fault::manifest_busy("the list could not be had", "the task of the list is gone"))
            }
            Err(_) => self.known_tags(repository, n, last, Stale::Slow).ok_or_else(fault::late_manifest),
        }
    }

    async fn ask_tags(
        self: &Arc<Self>,
        repository: &Repository,
        n: Option<u32>,
        last: Option<&str>,
    ) -> Option<Tags> {
        let question = (repository.key, n, last.map(str::to_owned));
        let (engine, name, last) = (Arc::clone(self), repository.name.clone(), last.map(str::to_owned));
        let mut ticket = self.tag_lists.join(question, || async move {
            let _turn = engine.lists.acquire().await;
            engine.upstream.tags(&name, n, last.as_deref()).await.map(Arc::new).map_err(Arc::new)
        });
        ticket.wait().await
    }

    fn known_tags(
        &self,
        repository: &Repository,
        n: Option<u32>,
        last: Option<&str>,
        why: Stale,
    ) -> Option<TagsPage> {
        let known = self.index.tags(&repository.key, None, KNOWN_TAGS_MAX);
        let tags: Vec<_> = known.iter().map(Tag::to_string).collect();
        (!tags.is_empty()).then(|| cut_page(tags, false, n, last, Outcome::Stale(why, Duration::ZERO)))
    }

    /// The repositories that this mirror knows. A number over the maximum is an error, as `registry` has it.
    pub fn catalog(&self, page: &Page, most: u32) -> Result<CatalogPage, Denial> {
        let n = page.n.unwrap_or(CATALOG_PAGE.min(most));
        if n > most {
            let fault = Fault::new(Code::PaginationNumberInvalid).with_detail(json!({ "n": n }));
            return Err(Denial { outcome: Outcome::Refused, fault: Box::new(fault) });
        }
        let wanted = usize::try_from(n).unwrap_or(usize::MAX);
        let mut repositories = self.served_repositories(page.last.as_deref(), wanted.saturating_add(1));
        let more = repositories.len() > wanted;
        repositories.truncate(wanted);
        let next = repositories.last().filter(|_| more).map(|last| Next { last: last.clone(), n });
        Ok(CatalogPage { repositories, next })
    }

    /// Names after a given one, without those that are not served here.
    fn served_repositories(&self, last: Option<&str>, limit: usize) -> Vec<String> {
        let (mut served, mut after) = (Vec::new(), last.map(str::to_owned));
        while served.len() < limit {
            let names = self.index.repositories(self.naming.upstream(), after.as_deref(), limit);
            let Some(newest) = names.last() else { break };
            after = Some(newest.to_string());
            let names = names.iter().filter(|name| self.naming.is_served(name));
            served.extend(names.map(ToString::to_string));
        }
        served.truncate(limit);
        served
    }
}

/// The page that an upstream gave, in its own order; or cut out of what it gave if it ignored `n` or `last`.
fn page_of(list: &TagList, n: Option<u32>, last: Option<&str>) -> TagsPage {
    let too_many = n.is_some_and(|n| list.tags.len() > usize::try_from(n).unwrap_or(usize::MAX));
    let ignored = too_many || last.is_some_and(|last| list.tags.iter().any(|tag| tag == last));
    if ignored || !list.more {
        let last = last.filter(|_| ignored);
        return cut_page(list.tags.clone(), list.more, n, last, Outcome::Bypass);
    }
    let entries = n.or(u32::try_from(list.tags.len()).ok());
    let next = list.tags.last().zip(entries).map(|(last, n)| Next { last: last.clone(), n });
    TagsPage { tags: list.tags.clone(), next, outcome: Outcome::Bypass }
}

/// Cuts a page out of a whole list.
fn cut_page(
    mut tags: Vec<String>,
    more: bool,
    n: Option<u32>,
    last: Option<&str>,
    outcome: Outcome,
) -> TagsPage {
    tags.sort_unstable();
    tags.dedup();
    if let Some(last) = last {
        tags.retain(|tag| tag.as_str() > last);
    }
    let Some(n) = n else {
        return TagsPage { tags, next: None, outcome };
    };
    let wanted = usize::try_from(n).unwrap_or(usize::MAX);
    let more = more || tags.len() > wanted;
    tags.truncate(wanted);
    let next = tags.last().filter(|_| more).map(|last| Next { last: last.clone(), n });
    TagsPage { tags, next, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        given: &[&str],
        more: bool,
        n: Option<u32>,
        last: Option<&str>,
        expected: &[&str],
        next: Option<(&str, u32)>,
    ) {
        let list = TagList { tags: given.iter().map(|tag| (*tag).to_owned()).collect(), more };
        let page = page_of(&list, n, last);
        assert_eq!(page.tags, expected);
        assert_eq!(page.next.as_ref().map(|next| (next.last.as_str(), next.n)), next);
    }

    #[test]
    fn an_upstream_that_ignores_paging_is_paged_here() {
        let all = ["b", "a", "d", "c", "a"];
        check(&all, false, None, None, &["a", "b", "c", "d"], None);
        check(&all, false, Some(2), None, &["a", "b"], Some(("b", 2)));
        check(&all, false, Some(2), Some("b"), &["c", "d"], None);
        check(&all, false, Some(4), None, &["a", "b", "c", "d"], None);
        check(&all, false, None, Some("c"), &["d"], None);
    }

    #[test]
    fn an_upstream_that_pages_is_followed_in_its_own_order() {
        check(&["new", "old"], true, None, None, &["new", "old"], Some(("old", 2)));
        check(&["new", "old"], true, Some(2), Some("z"), &["new", "old"], Some(("old", 2)));
        check(&["c", "d"], false, Some(2), Some("x"), &["c", "d"], None);
        check(&[], true, None, None, &[], None);
    }
}
