//! Media types of manifests, and what a client's `Accept` says about them.

use std::fmt;

/// A media type as the upstream gave it, without parameters.
///
/// Kept as text, since a mirror passes on types that it has never heard of.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(String);

/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, schema 1, signed.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// The four types that every request to an upstream accepts.
pub const MODERN: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

impl MediaType {
    /// Longest type that is believed; real ones have about 70 characters.
    pub const CHARACTERS_MAX: usize = 255;

    /// The type in a `Content-Type` value, parameters dropped; `None` if it is no `type/subtype` of visible ASCII.
    pub fn parse(value: &str) -> Option<Self> {
        let bare = value.split(';').next().unwrap_or_default().trim();
        let visible = bare.bytes().all(|b| b.is_ascii_graphic() && b != b',' && b != b'"');
        let (kind, subtype) = bare.split_once('/')?;
        let whole = !kind.is_empty() && !subtype.is_empty() && bare.len() <= Self::CHARACTERS_MAX;
        (visible && whole).then(|| Self(bare.to_owned()))
    }

    /// One of the constants of this module.
    pub fn known(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a manifest of one image, an index of several, or neither.
    pub fn kind(&self) -> Kind {
        match self.0.as_str() {
            DOCKER_MANIFEST | OCI_MANIFEST => Kind::Manifest,
            DOCKER_LIST | OCI_INDEX => Kind::Index,
            _ => Kind::Other,
        }
    }
}

/// What a media type says about the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One image: config and layers.
    Manifest,
    /// A list of manifests.
    Index,
    /// Anything else, schema 1 included.
    Other,
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client's `Accept` lines say about lists. All other differences are ignored: `Accept` never refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accept {
    schema2: bool,
    list: bool,
    any: bool,
}

impl Accept {
    /// Entries looked at over all lines; dockerd sends 6, and a longer list is an attack on us.
    pub const ENTRIES_MAX: usize = 64;

    /// Reads all `Accept` lines of a request; their order and number do not matter.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut accept = Self::default();
        for entry in lines.into_iter().flat_map(|line| line.split(',')).take(Self::ENTRIES_MAX) {
            match entry.split(';').next().unwrap_or_default().trim() {
                DOCKER_MANIFEST => accept.schema2 = true,
                DOCKER_LIST | OCI_INDEX => accept.list = true,
                "*/*" | "application/*" => accept.any = true,
                _ => {}
            }
        }
        accept
    }

    /// Whether a list asked by tag is to be answered with its linux/amd64 child: the client named schema 2 and no
    /// list or index type. Such clients predate lists; a newer one that accepts everything says `*/*`.
    pub fn wants_single_image(self) -> bool {
        self.schema2 && !self.list && !self.any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_a_type_or_none(text in "\\PC{0,60}|[a-z/+.;=, *-]{0,60}") {
            if let Some(known) = MediaType::parse(&text) {
                prop_assert_eq!(MediaType::parse(known.as_str()), Some(known));
            }
            let _ = Accept::parse([text.as_str(), text.as_str()]).wants_single_image();
        }
    }

    #[test]
    fn parameters_are_dropped_and_nonsense_refused() {
        assert_eq!(MediaType::parse("application/json; charset=utf-8").unwrap().as_str(), "application/json");
        for bad in ["", "json", "/", "a/", "/b", "a/b\u{7f}", "a/b c", "a/\"b\""] {
            assert_eq!(MediaType::parse(bad), None, "{bad}");
        }
        assert_eq!(MediaType::parse(&format!("a/{}", "b".repeat(300))), None);
    }

    #[track_caller]
    fn check(lines: &[&str], single: bool) {
        assert_eq!(Accept::parse(lines.iter().copied()).wants_single_image(), single, "{lines:?}");
    }

    #[test]
    fn only_a_client_that_knows_no_lists_gets_a_child() {
        check(&[DOCKER_MANIFEST], true);
        check(&[&format!("{DOCKER_MANIFEST};q=0.5, application/json")], true);
        check(&[DOCKER_MANIFEST, DOCKER_LIST], false);
        check(&[&format!("{DOCKER_MANIFEST}, */*")], false);
        check(&["*/*"], false);
        check(&[], false);
        check(&[OCI_MANIFEST], false);
    }

    #[test]
    fn only_the_first_entries_of_an_endless_accept_are_read() {
        let endless = vec!["application/x"; Accept::ENTRIES_MAX].join(",") + "," + DOCKER_MANIFEST;
        check(&[&endless], false);
    }
}
