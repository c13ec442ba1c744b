use std::time::Duration;

use super::*;

/// What the image of `registry` 2.8 has at `/etc/docker/registry/config.yml`.
const IMAGE_2: &str = "\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
";

/// What the image of `registry` 3 has at `/etc/distribution/config.yml`.
const IMAGE_3: &str = "\
version: 0.1
log:
  level: debug
  fields:
    service: registry
    environment: development
storage:
  delete:
    enabled: true
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
  tag:
    concurrencylimit: 5
http:
  addr: :5000
  debug:
    addr: :5001
    prometheus:
      enabled: true
      path: /metrics
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
";

const NO_WARNINGS: [String; 0] = [];

#[test]
fn the_file_of_the_image_of_registry_2_loads_in_silence() {
    let config = from_both(IMAGE_2, &[]).unwrap();
    assert_eq!(config.warnings, NO_WARNINGS);
    assert_eq!(config.http.listen, Listen::Anywhere(5000));
    assert_eq!(config.http.debug, None);
    assert_eq!(config.log.fields, pairs(&[("service", "registry")]));
    let (name, value) = config.http.headers.first().unwrap();
    assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-content-type-options", "nosniff"));
    let root = "/var/lib/registry".into();
    assert_eq!(config.storage, Storage::Filesystem { root, configured: true });
}

#[test]
fn the_file_of_the_image_of_registry_3_loads_in_silence() {
    let config = from_both(IMAGE_3, &[]).unwrap();
    assert_eq!(config.warnings, NO_WARNINGS);
    assert_eq!(config.log.level, Level::Debug);
    let debug = Debug { listen: Listen::Anywhere(5001), metrics: Some("/metrics".into()) };
    assert_eq!(config.http.debug, Some(debug));
}

#[test]
fn nothing_at_all_is_a_mirror_of_docker_hub() {
    let config = from_variables(&[]).unwrap();
    assert_eq!(config.warnings, NO_WARNINGS);
    assert_eq!(config.file, None);
    assert_eq!((config.log.level, config.log.formatter), (Level::Info, Formatter::Text));
    assert_eq!(config.log.access, Some(AccessFormat::Combined));
    assert_eq!((config.http.listen, config.http.drain), (Listen::Anywhere(5000), Duration::from_secs(30)));
    assert!(
        config.edge.alpn == [Protocol::Http2, Protocol::Http1]
            && config.http.tls.is_none()
            && config.http.debug.is_none()
    );
    assert_eq!(config.proxy.remoteurl.as_str(), "https://registry-1.docker.io/");
    assert_eq!((config.proxy.name.as_str(), config.proxy.account), ("docker.io", None));
    assert!(config.proxy.anonymous_fallback && !config.proxy.configured);
    let root = "/var/lib/registry".into();
    assert_eq!(config.storage, Storage::Filesystem { root, configured: false });
    assert_eq!((config.catalog_max, config.tags_max), (1000, 1000));
    let negative = Duration::from_secs(5);
    let tags = TagRules { fresh: Duration::ZERO, stale_for: None, refuse_gone: false, negative };
    assert_eq!(config.tags, tags);
}

#[test]
fn the_argument_goes_before_the_variable_and_that_before_the_defaults() {
    let [argument, named, first, second] = ["error", "warn", "info", "debug"]
        .map(|level| written(&format!("version: 0.1\nlog: {{level: {level}}}")));
    let path = |file: &NamedTempFile| file.path().to_str().unwrap().to_owned();
    let defaults = [path(&first), path(&second)];
    let defaults = defaults.each_ref().map(String::as_str);
    let level = |argument: Option<&NamedTempFile>, named: &str, defaults: &[&str]| {
        let inputs = Inputs {
            file: argument.map(|file| file.path().to_owned()),
            variables: pairs(&[("REGISTRY_CONFIGURATION_PATH", named)]),
        };
        Config::load_with_defaults(&inputs, defaults).unwrap().log.level
    };
    assert_eq!(level(Some(&argument), &path(&named), &defaults), Level::Error);
    assert_eq!(level(None, &path(&named), &defaults), Level::Warn);
    assert_eq!(level(None, "", &defaults), Level::Info);
    assert_eq!(level(None, "", &["/nowhere/config.yml", &path(&second)]), Level::Debug);
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let error = from_both(text, &[]).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    for path in ["/nowhere/config.yml", "/tmp"] {
        let inputs = Inputs { file: Some(path.into()), variables: Vec::new() };
        let error = Config::load(&inputs).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains("fix:"), "{error}");
    }
    check(&"#\n".repeat(600_000), "more than 1024 KiB");
}

#[test]
fn there_is_one_version() {
    check("", "unsupported version");
    check("log: {level: info}", "unsupported version");
    check("version: 0.2", "version = \"0.2\"");
    assert!(from_both("version: \"0.1\"", &[]).is_ok());
}

#[test]
fn a_broken_document_is_named_by_its_place_and_never_quoted() {
    check("version: 0.1\nproxy:\n  password: hunter2: x", ":3:");
    check("version: 0.1\nproxy:\n  password: \"hunter2", "no usable YAML");
    check("version: 0.1\nproxy:\n  password: @hunter2", "no usable YAML");
    check("version: 0.1\nproxy:\n\tpassword: hunter2", "no usable YAML");
}

#[test]
fn a_key_stands_once_and_a_file_holds_one_document() {
    check("version: 0.1\nhttp:\n  addr: :1\n  addr: :2", "the key `addr` stands here twice");
    check("version: 0.1\n---\nversion: 0.1", "a second document");
    check("version: 0.1\n[a]: b", "a key must be a text");
    check("version: 0.1\nhealth: {file: [], filecheckers: []}", "`filecheckers` is the same key");
}

#[test]
fn nesting_and_aliases_have_bounds() {
    check(&format!("version: 0.1\nx: {}", "[".repeat(40)), "nested too deeply");
    let mut bomb = String::from("version: 0.1\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    check(&bomb, "aliases multiply");
    check("version: 0.1\na: &a [*a]", "inside its own anchor");
    check("version: 0.1\na: &a {b: c}\nd: {<<: *a}", "merge keys");
    check("version: 0.1\na: !!binary aGk=", "tag is not understood");
}

#[test]
fn an_alias_stands_for_its_anchor() {
    let config = from_yaml("log: {level: &l warn, fields: {level: *l}}").unwrap();
    assert_eq!(config.log.level, Level::Warn);
    assert_eq!(config.log.fields, pairs(&[("level", "warn")]));
}

#[test]
fn a_megabyte_of_anything_ends_soon() {
    for unit in ["[", "{", "a: ", "- ", "? ", "x\n", "'", "&a ", "a:\n ", "{a: ", "[a, ", "\"\\", "#", "!"] {
        let text = unit.repeat(1024 * 1024 / unit.len());
        let _ = from_both(&text, &[]);
    }
    let keys: String = (0..60_000).map(|n| format!("k{n}: {n}\n")).collect();
    let config = from_yaml(&keys).unwrap();
    assert_eq!(config.warnings.len(), 201);
}

#[test]
fn the_effective_configuration_is_one() {
    let text = "
log: {level: warn, formatter: json, fields: {b: \"x\\ty\", a: 'ü'}, accesslog: {disabled: true}}
http:
  addr: '[::1]:443'
  prefix: /mirror/
  draintimeout: 1500ms
  headers: {X-A: [a, b], X-B: 'max-age=1, \"q\"'}
  tls: {certificate: /c.pem, key: /k.pem, minimumtls: tls1.3, clientcas: [/ca.pem], clientauth: request-client-cert}
  debug: {addr: 'localhost:5001', prometheus: {enabled: yes}}
  http2: {disabled: true}
storage: inmemory
proxy: {remoteurl: https://quay.io, username: bot, password: hunter2}
health:
  file: [{file: /down}]
  http: [{uri: 'http://u:hunter2@a/b?c=hunter2', headers: {Authorization: [hunter2]}, statuscode: 204}]
  tcp: [{addr: 'db:1', timeout: 1s, interval: 2s, threshold: 3}]
tidegate:
  proxy: {allow: 'a/*, b/**', deny: [c], realms: auth.quay.io, anonymousfallback: no}
  tags: {fresh: 1m, stalefor: 168h, gone: refuse, negative: 0}
  log: {access: json}
  tls: {dir: /certs, keep: no}
  edge: {strictsni: yes}
";
    let config = from_yaml(text).unwrap();
    let effective = config.effective();
    assert!(!effective.contains("hunter2"), "{effective}");
    assert!(effective.contains("  password: \"***\""), "{effective}");
    let again = from_both(&effective, &[]).unwrap();
    assert_eq!(again.effective(), effective);
    assert_eq!((again.log, again.storage, again.tags), (config.log, config.storage, config.tags));
    assert_eq!(
        (again.http.listen, again.http.headers, again.http.tls),
        (config.http.listen, config.http.headers, config.http.tls)
    );
}

#[test]
fn of_two_default_files_the_first_is_read_and_the_other_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (first, second) =
        (write("a.yml", "version: 0.1\nhttp: {addr: ':81'}\n"), write("b.yml", "version: 0.1\n"));
    let load = || Config::load_with_defaults(&Inputs::default(), &[&first, &second]).unwrap();
    let config = load();
    assert_eq!(config.http.listen, Listen::Anywhere(81));
    assert!(config.warnings.len() == 1 && config.warnings[0].contains(&second), "{:?}", config.warnings);
    std::fs::copy(&first, &second).unwrap();
    assert_eq!(load().warnings, NO_WARNINGS);
}

#[test]
fn the_example_of_debians_package_is_not_read_unless_named() {
    let folder = tempfile::tempdir().unwrap();
    let logins = folder.path().display();
    let write = |name: &str, more: &str, logins: &str| {
        let path = folder.path().join(name);
        let text = format!(
            "version: 0.1\nhttp: {{addr: ':81'}}\nauth: {{htpasswd: {{realm: r, path: {logins}}}}}\n{more}"
        );
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let load = |path: &str| Config::load_with_defaults(&Inputs::default(), &[path]);
    let example = write("example.yml", "", &logins.to_string());
    let config = load(&example).unwrap();
    assert_eq!((config.file, config.http.listen), (None, Listen::Anywhere(5000)));
    assert!(config.warnings.len() == 1 && config.warnings[0].contains(&example), "{:?}", config.warnings);

    let named = Inputs { file: Some(example.clone().into()), variables: vec![] };
    assert!(Config::load(&named).unwrap().htpasswd.is_some());
    let mirror = write("mirror.yml", "proxy: {remoteurl: https://quay.io}\n", &logins.to_string());
    assert!(load(&mirror).unwrap().htpasswd.is_some());
    let in_use = write("in_use.yml", "", &example);
    assert!(load(&in_use).unwrap().htpasswd.is_some());
}
