use super::super::media_type::{DOCKER_LIST, DOCKER_MANIFEST};
use super::*;
use proptest::prelude::*;

fn digest(seed: &str) -> Digest {
    Digest::sha256(seed.as_bytes())
}

fn image(media_type: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"digest":"{}","size":7}},"layers":[{{"digest":"{}","size":9}}]}}"#,
        digest("config"),
        digest("layer")
    )
}

fn index(media_type: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[
            {{"digest":"{}","size":5,"platform":{{"os":"linux","architecture":"arm64"}}}},
            {{"digest":"{}","size":6,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        digest("arm"),
        digest("amd")
    )
}

#[test]
fn an_image_names_its_config_and_layers() {
    let manifest = Manifest::parse(image(DOCKER_MANIFEST).as_bytes(), None).unwrap();
    let named: Vec<_> = manifest.descriptors.iter().map(|d| (d.digest, d.size, d.role)).collect();
    assert_eq!(named, [(digest("config"), Some(7), Role::Blob), (digest("layer"), Some(9), Role::Blob)]);
    assert!(manifest.read_by_registry_2 && !manifest.is_index());
}

#[test]
fn an_index_gives_the_child_of_a_platform() {
    let manifest = Manifest::parse(index(DOCKER_LIST).as_bytes(), None).unwrap();
    assert!(manifest.is_index());
    assert_eq!(manifest.child_for("linux/amd64").map(|child| child.digest), Some(digest("amd")));
    assert_eq!(manifest.child_for("plan9/amd64"), None);
}

#[test]
fn the_type_comes_from_the_header_then_the_document_then_its_shape() {
    let outside = MediaType::known(OCI_MANIFEST);
    assert_eq!(Manifest::parse(image("").as_bytes(), Some(&outside)).unwrap().media_type, outside);
    assert_eq!(
        Manifest::parse(image(DOCKER_MANIFEST).as_bytes(), None).unwrap().media_type.as_str(),
        DOCKER_MANIFEST
    );
    assert_eq!(Manifest::parse(index("").as_bytes(), None).unwrap().media_type.as_str(), OCI_INDEX);
    assert_eq!(Manifest::parse(b"{\"schemaVersion\":1}", None).unwrap().media_type.as_str(), DOCKER_SCHEMA1);
}

#[test]
fn a_document_that_is_two_things_at_once_is_refused() {
    let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    assert_eq!(Manifest::parse(both.as_bytes(), None), Err(ManifestError::Ambiguous));
    let outside = MediaType::known(OCI_INDEX);
    assert!(matches!(
        Manifest::parse(image(OCI_MANIFEST).as_bytes(), Some(&outside)),
        Err(ManifestError::Disagrees { .. })
    ));
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let deep = "[".repeat(10_000);
    for garbage in ["", "[]", "\"x\"", "{", "\u{0}", "<html>", &deep, r#"{"layers":7}"#] {
        assert!(
            matches!(Manifest::parse(garbage.as_bytes(), None), Err(ManifestError::NotJson(_))),
            "{garbage:.20}"
        );
    }
}

#[test]
fn what_registry_2_cannot_read_is_told_apart() {
    let artifact =
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#;
    for document in [artifact, r#"{"schemaVersion":1,"fsLayers":[]}"#, "{}", r#"{"schemaVersion":2}"#] {
        assert!(!Manifest::parse(document.as_bytes(), None).unwrap().read_by_registry_2, "{document}");
    }
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Manifest::parse(&bytes, None);
    }

    /// Documents of the right words in any company: what is two things at once is never taken, and every type is one.
    #[test]
    fn any_members_make_one_thing_or_none(
        members in proptest::collection::btree_map(MEMBERS, value(), 0..7),
        outside in proptest::option::of(TYPES),
    ) {
        let document: String =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect::<Vec<_>>().join(",");
        let outside = outside.and_then(|text| MediaType::parse(&text));
        let parsed = Manifest::parse(format!("{{{document}}}").as_bytes(), outside.as_ref());
        let has = |name: &str| members.get(name).is_some_and(|value| value != "null");
        if has("manifests") && (has("layers") || has("config")) {
            prop_assert!(parsed.is_err());
        }
        if let Ok(manifest) = parsed {
            prop_assert!(manifest.descriptors.len() <= DESCRIPTORS_MAX);
            prop_assert!(MediaType::parse(manifest.media_type.as_str()).is_some());
        }
    }
}

const MEMBERS: &str = "schemaVersion|mediaType|config|layers|manifests|subject|fsLayers|annotations";

const TYPES: &str =
    "application/vnd[.](oci[.]image|docker[.]distribution)[.](manifest|index|manifest[.]list)[.]v[12][+]json";

/// Mostly what belongs there.
fn value() -> impl Strategy<Value = String> {
    let descriptor = format!(r#"{{"digest":"{}","size":3,"platform":{{"os":"linux"}}}}"#, digest("x"));
    let list = format!("[{descriptor},{{}}]");
    let text = TYPES.prop_map(|text| format!("\"{text}\""));
    prop_oneof![Just(descriptor), Just(list), text, "-?[0-9]{1,25}", "null|true|\\[\\]|\\{\\}|\"\""]
}
