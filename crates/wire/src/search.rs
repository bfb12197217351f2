//! What a search for images lets through, and its answer.

use robot_env_diag::{Error, Result};
use robot_env_registry::Found;
use serde::Serialize;

use crate::Filters;

/// The keys of the filters of a search.
pub const SEARCH_FILTERS: &[&str] = &["is-automated", "is-official", "stars"];

/// How many images are looked for when nobody says it.
const USUAL: usize = 25;
/// And at the most.
const MOST: usize = 100;

/// An image that was found, as `GET /images/search` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SearchResult {
    /// Its name, with the registry where it is not Docker Hub.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// How many users like it.
    pub star_count: u64,
    /// Whether it is one of the registry's own.
    pub is_official: bool,
    /// Nothing is built by Docker Hub any more.
    pub is_automated: bool,
}

impl From<Found> for SearchResult {
    fn from(found: Found) -> SearchResult {
        let Found { name, description, stars, official } = found;
        SearchResult { name, description, star_count: stars, is_official: official, is_automated: false }
    }
}

/// The filters of a search.
#[derive(Clone, Copy, Debug)]
pub struct SearchFilter {
    official: Option<bool>,
    automated: Option<bool>,
    stars: u64,
}

impl SearchFilter {
    /// Checks the values.
    ///
    /// # Errors
    /// `InvalidInput`: a value that its key does not have.
    pub fn new(filters: &Filters) -> Result<SearchFilter> {
        let (official, automated) = (filters.truth("is-official")?, filters.truth("is-automated")?);
        let mut stars = 0;
        for text in filters.values("stars") {
            let least = text.parse().map_err(|_| Error::invalid(format!("invalid filter 'stars={text}'")))?;
            stars = std::cmp::max(stars, least);
        }
        Ok(SearchFilter { official, automated, stars })
    }

    /// Whether an image passes.
    pub fn takes(&self, image: &SearchResult) -> bool {
        image.star_count >= self.stars
            && self.official.is_none_or(|wanted| image.is_official == wanted)
            && self.automated.is_none_or(|wanted| image.is_automated == wanted)
    }
}

/// How many images to look for: 0 is the usual number.
///
/// # Errors
/// `InvalidInput`: too many, or fewer than none.
pub fn search_limit(limit: i64) -> Result<usize> {
    match usize::try_from(limit) {
        Ok(0) => Ok(USUAL),
        Ok(limit) if limit <= MOST => Ok(limit),
        _ => Err(Error::invalid(format!("limit {limit} is outside the range of [1, {MOST}]"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_marks() {
        let image = SearchResult {
            name: "ros".into(),
            description: String::new(),
            star_count: 7,
            is_official: true,
            is_automated: false,
        };
        for (key, value, want) in [
            ("stars", "7", true),
            ("stars", "8", false),
            ("is-official", "true", true),
            ("is-official", "false", false),
            ("is-automated", "0", true),
            ("is-automated", "1", false),
        ] {
            let mut filters = Filters::default();
            filters.add(key, value, SEARCH_FILTERS).unwrap();
            assert_eq!(SearchFilter::new(&filters).unwrap().takes(&image), want, "{key}={value}");
        }
        for (key, value) in [("stars", "-1"), ("stars", "many"), ("is-official", "maybe")] {
            let mut filters = Filters::default();
            filters.add(key, value, SEARCH_FILTERS).unwrap();
            assert!(SearchFilter::new(&filters).is_err(), "{key}={value}");
        }
        for (limit, want) in [(0, Some(25)), (1, Some(1)), (100, Some(100)), (101, None), (-1, None)] {
            assert_eq!(search_limit(limit).ok(), want, "{limit}");
        }
    }
}
