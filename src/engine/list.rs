//! Lists: tags and the catalogue.

use std::sync::Arc;

use serde_json::json;

use super::outcome::Outcome;
use super::{Denial, Engine, Repository, fault};
use crate::registry::route::Page;
use crate::registry::{Code, Fault, Tag};

/// Most tags of our own given to a client that names no number.
const KNOWN_TAGS_MAX: usize = 100_000;

/// Names on a page of the catalogue for a client that names no number; as `registry`.
const CATALOG_PAGE: u32 = 100;

/// Most repositories whose names a walk of an adopted volume takes in.
const ADOPTED_REPOSITORIES_MAX: usize = 100_000;

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
    pub async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagsPage, Denial> {
        let n = page.n.map(|n| n.min(self.tags_max));
        if n == Some(0) {
            return Ok(TagsPage { tags: Vec::new(), next: None, outcome: Outcome::Bypass });
        }
        match self.upstream.tags(&repository.name, n, page.last.as_deref()).await {
            Ok(answer) => Ok(cut_page(answer.tags, answer.more, n, page.last.as_deref(), Outcome::Bypass)),
            Err(error) => {
                let known = self.index.tags(&repository.key, None, KNOWN_TAGS_MAX);
                if known.is_empty() {
                    return Err(fault::no_tags(&repository.name, &error));
                }
                let tags = known.iter().map(Tag::to_string).collect();
                Ok(cut_page(tags, false, n, page.last.as_deref(), Outcome::Hit))
            }
        }
    }

    /// The repositories that this mirror knows. A number over the maximum is an error, as `registry` has it.
    pub fn catalog(&self, page: &Page, most: u32) -> Result<CatalogPage, Denial> {
        let n = page.n.unwrap_or(CATALOG_PAGE.min(most));
        if n > most {
            let fault = Fault::new(Code::PaginationNumberInvalid).with_detail(json!({ "n": n }));
            return Err(Denial { outcome: Outcome::Refused, fault: Box::new(fault) });
        }
        let wanted = usize::try_from(n).unwrap_or(usize::MAX);
        let names =
            self.index.repositories(self.naming.upstream(), page.last.as_deref(), wanted.saturating_add(1));
        let mut repositories: Vec<_> = names.iter().map(ToString::to_string).collect();
        let more = repositories.len() > wanted;
        repositories.truncate(wanted);
        let next = repositories.last().filter(|_| more).map(|last| Next { last: last.clone(), n });
        Ok(CatalogPage { repositories, next })
    }

    /// Takes in the names of the repositories of a volume that another program filled, so that the catalogue has them.
    /// Everything else of it is found when it is asked for.
    pub async fn adopt_names(self: &Arc<Self>) {
        let engine = Arc::clone(self);
        let walked = super::blocking(move || {
            let names = engine.store.repositories(ADOPTED_REPOSITORIES_MAX);
            for name in &names {
                engine.index.apply(crate::index::Batch::new().put_repository(engine.naming.upstream(), name));
            }
            names.len()
        });
        match walked.await {
            Ok(count) => tracing::debug!(count, "repositories in the volume"),
            Err(error) => tracing::warn!(%error, "could not list the repositories of the volume"),
        }
    }
}

/// Cuts the wanted page out of what an upstream gave, which may have ignored `n` and `last`.
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
    fn check(n: Option<u32>, last: Option<&str>, more: bool, expected: &[&str], next: Option<&str>) {
        let all = ["b", "a", "d", "c", "a"].map(str::to_owned).to_vec();
        let page = cut_page(all, more, n, last, Outcome::Bypass);
        assert_eq!(page.tags, expected);
        assert_eq!(page.next.as_ref().map(|next| next.last.as_str()), next);
    }

    #[test]
    fn an_upstream_that_ignores_paging_is_paged_here() {
        check(None, None, false, &["a", "b", "c", "d"], None);
        check(Some(2), None, false, &["a", "b"], Some("b"));
        check(Some(2), Some("b"), false, &["c", "d"], None);
        check(Some(2), Some("b"), true, &["c", "d"], Some("d"));
        check(Some(4), None, false, &["a", "b", "c", "d"], None);
        check(None, Some("c"), false, &["d"], None);
    }
}
