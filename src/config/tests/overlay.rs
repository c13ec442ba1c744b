use std::time::Duration;

use super::*;

/// The folder that variables make of a file.
#[track_caller]
fn check_root(file: &str, variables: &[(&str, &str)], expected: &str) {
    let file = format!("version: 0.1\n{file}");
    match from_both(&file, variables).unwrap().storage {
        Storage::Filesystem { root, .. } => assert_eq!(root.to_str(), Some(expected)),
        Storage::Temporary => assert_eq!("inmemory", expected),
    }
}

#[test]
fn variables_go_over_the_file_and_parents_before_children() {
    let file = "storage: {filesystem: {rootdirectory: /file}}";
    check_root(file, &[], "/file");
    check_root(file, &[("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/variable")], "/variable");
    check_root(file, &[("REGISTRY_STORAGE", "{filesystem: {rootdirectory: /x}}")], "/x");
    check_root(file, &[("REGISTRY_STORAGE", "filesystem")], "/var/lib/registry");
    check_root(file, &[("REGISTRY_STORAGE", "inmemory")], "inmemory");
    check_root("storage: filesystem", &[], "/var/lib/registry");
    let both = [("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/x"), ("REGISTRY_STORAGE", "filesystem")];
    check_root("storage: {s3: {bucket: b}}", &both, "/x");
}

#[test]
fn a_whole_value_replaces_and_does_not_merge() {
    let file = "version: 0.1\nproxy: {remoteurl: https://quay.io, username: a, password: b}";
    let config = from_both(file, &[("REGISTRY_PROXY", "{remoteurl: https://ghcr.io}")]).unwrap();
    assert_eq!((config.proxy.name.as_str(), config.proxy.account), ("ghcr.io", None));
    let config =
        from_both("version: 0.1\nhttp: {addr: :1, prefix: /a}", &[("REGISTRY_HTTP", "{addr: \":2\"}")]);
    let http = config.unwrap().http;
    assert_eq!((http.listen, http.prefix.as_str()), (Listen::Anywhere(2), ""));
}

#[test]
fn names_are_matched_in_any_case_and_by_those_of_go() {
    for name in
        ["REGISTRY_HEALTH_TCPCHECKERS_0_ADDR", "REGISTRY_HEALTH_TCP_0_ADDR", "REGISTRY_health_Tcp_0_addr"]
    {
        let config = from_variables(&[(name, "db:5432")]).unwrap();
        assert_eq!(config.health.checks[0].probe, Probe::Tcp("db:5432".into()));
    }
    let config = from_variables(&[("TIDEGATE_TAGS_FRESH", "90s"), ("REGISTRY_LOG_LEVEL", "warn")]).unwrap();
    assert_eq!((config.tags.fresh, config.log.level), (Duration::from_secs(90), Level::Warn));
}

#[track_caller]
fn check_realms(variables: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(from_variables(variables).unwrap().proxy.realms, expected);
}

#[test]
fn lists_come_as_yaml_by_number_or_with_commas() {
    let all = "TIDEGATE_PROXY_REALMS";
    check_realms(&[(all, "[a, \"b\"]")], &["a", "b"]);
    check_realms(&[(all, "a, b:80,")], &["a", "b:80"]);
    check_realms(&[(all, "a")], &["a"]);
    check_realms(&[(all, "")], &[]);
    check_realms(&[("TIDEGATE_PROXY_REALMS_1", "b"), ("TIDEGATE_PROXY_REALMS_0", "a")], &["a", "b"]);
    check_realms(&[(all, "[a, b]"), ("TIDEGATE_PROXY_REALMS_0", "c")], &["c", "b"]);
    let many: Vec<_> = (0..12).map(|n| (format!("TIDEGATE_PROXY_REALMS_{n}"), format!("h{n}"))).collect();
    let config = Config::load_with_defaults(&Inputs { file: None, variables: many }, &[]).unwrap();
    assert_eq!(config.proxy.realms[11], "h11");
}

#[test]
fn patterns_with_stars_need_no_quotes() {
    for value in ["*/nginx, corp/**", "[*/nginx, corp/**]", "['*/nginx', \"corp/**\"]"] {
        let config = from_variables(&[("TIDEGATE_PROXY_ALLOW", value)]).unwrap();
        let patterns: Vec<_> = config.proxy.allow.iter().map(crate::registry::Pattern::as_str).collect();
        assert_eq!(patterns, ["*/nginx", "corp/**"], "{value}");
    }
}

#[track_caller]
fn check_header(variables: &[(&str, &str)], expected: &[&str]) {
    let headers = from_variables(variables).unwrap().http.headers;
    let values: Vec<_> = headers.iter().map(|(_, value)| value.to_str().unwrap()).collect();
    assert_eq!(values, expected);
    assert!(headers.iter().all(|(name, _)| name == "x-foo"));
}

#[test]
fn a_header_is_a_list_or_a_text() {
    check_header(&[("REGISTRY_HTTP_HEADERS_X-Foo", "[\"*\"]")], &["*"]);
    check_header(&[("REGISTRY_HTTP_HEADERS_X-Foo", "*")], &["*"]);
    check_header(&[("REGISTRY_HTTP_HEADERS_X-Foo", "GET, HEAD")], &["GET, HEAD"]);
    check_header(&[("REGISTRY_HTTP_HEADERS_X-Foo", "a: b")], &["a: b"]);
    check_header(
        &[("REGISTRY_HTTP_HEADERS_X-Foo_0", "a"), ("REGISTRY_HTTP_HEADERS_X-Foo_1", "b")],
        &["a", "b"],
    );
    check_header(&[("REGISTRY_HTTP_HEADERS", "{X-Foo: [a]}")], &["a"]);
    check_header(&[("REGISTRY_HTTP_HEADERS", "{X-Foo: [a]}"), ("REGISTRY_HTTP_HEADERS_X-FOO", "b")], &["b"]);
}

#[track_caller]
fn check_password(value: &str) {
    let variables = [("REGISTRY_PROXY_USERNAME", value), ("REGISTRY_PROXY_PASSWORD", value)];
    let account = from_variables(&variables).unwrap().proxy.account.unwrap();
    assert_eq!((account.username.as_str(), account.password.expose()), (value, value));
}

#[test]
fn a_login_is_taken_as_it_is() {
    for value in [
        "0123", "1e5", "true", "~", "null", "@x", "`x", "*x", "&x", "!x", "%x", "{x", "[x", "|", ">", "a: b",
        "a #b", "\"x", "'x'", " x ",
    ] {
        check_password(value);
    }
}

#[test]
fn quotes_around_a_login_are_pointed_out() {
    let variables = [("REGISTRY_PROXY_USERNAME", "bot"), ("REGISTRY_PROXY_PASSWORD", "'hunter2'")];
    let warnings = from_variables(&variables).unwrap().warnings;
    assert!(warnings[0].starts_with("proxy.password (REGISTRY_PROXY_PASSWORD): the quotes"), "{warnings:?}");
    assert!(!warnings[0].contains("hunter2"));
}

#[test]
fn other_texts_are_yaml_where_they_can_be() {
    let variables = [
        ("REGISTRY_HTTP_ADDR", "[::1]:443"),
        ("REGISTRY_HTTP_TLS_CERTIFICATE", "\"/a b.pem\""),
        ("REGISTRY_HTTP_TLS_KEY", "@key"),
        ("REGISTRY_LOG_FIELDS_SERVICE", "a: b"),
        ("REGISTRY_HTTP_HTTP2_DISABLED", "y"),
        ("REGISTRY_HTTP_DRAINTIMEOUT", "0"),
    ];
    let config = from_variables(&variables).unwrap();
    assert_eq!(config.http.listen, Listen::Tcp("[::1]:443".parse().unwrap()));
    let tls = config.http.tls.unwrap().files.unwrap();
    assert_eq!((tls.certificate.to_str(), tls.key.to_str()), (Some("/a b.pem"), Some("@key")));
    assert_eq!(config.log.fields, pairs(&[("service", "a: b")]));
    assert!(config.edge.alpn == [Protocol::Http1] && config.http.drain.is_zero());
}

#[test]
fn a_value_may_be_in_a_file() {
    let file = written("hunter2 \n\n");
    let path = file.path().to_str().unwrap();
    let variables = [
        ("REGISTRY_PROXY_USERNAME", "bot"),
        ("REGISTRY_PROXY_PASSWORD_FILE", path),
        ("REGISTRY_PROXY_PASSWORD", ""),
    ];
    let account = from_variables(&variables).unwrap().proxy.account.unwrap();
    assert_eq!(account.password.expose(), "hunter2 \n");
    // A key of that name is no file.
    let config = from_variables(&[("REGISTRY_HEALTH_FILECHECKERS_0_FILE", "/down")]).unwrap();
    assert_eq!(config.health.checks[0].probe, Probe::File("/down".into()));
}

#[test]
fn a_value_from_a_file_has_one_source_and_bounds() {
    let long = written(&"x".repeat(64 * 1024 + 1));
    let long = long.path().to_str().unwrap();
    for (variables, expected) in [
        (
            [("REGISTRY_PROXY_PASSWORD", "hunter2"), ("REGISTRY_PROXY_PASSWORD_FILE", "/x")],
            "REGISTRY_PROXY_PASSWORD is set too",
        ),
        ([("REGISTRY_LOG_LEVEL", "info"), ("REGISTRY_PROXY_PASSWORD_FILE", "/nowhere")], "cannot be read"),
        ([("REGISTRY_LOG_LEVEL", "info"), ("REGISTRY_PROXY_PASSWORD_FILE", long)], "more than 64 KiB"),
    ] {
        let error = from_variables(&variables).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_old_name_of_the_level_counts_if_the_new_one_is_empty() {
    let old = ("REGISTRY_LOGLEVEL", "debug");
    let config = from_variables(&[old]).unwrap();
    assert_eq!((config.log.level, config.warnings.len()), (Level::Debug, 1));
    assert_eq!(from_variables(&[old, ("REGISTRY_LOG_LEVEL", "")]).unwrap().log.level, Level::Debug);
    assert_eq!(from_variables(&[old, ("REGISTRY_LOG_LEVEL", "warn")]).unwrap().log.level, Level::Warn);
    assert_eq!(from_yaml("loglevel: error").unwrap().log.level, Level::Error);
}

#[test]
fn variables_of_kubernetes_are_named_and_ignored() {
    let names = [
        "REGISTRY_PORT",
        "REGISTRY_SERVICE_HOST",
        "REGISTRY_SERVICE_PORT_HTTP",
        "REGISTRY_PORT_5000_TCP",
        "REGISTRY_PORT_5000_TCP_ADDR",
        "REGISTRY_STORAGE_PORT",
        "TIDEGATE_PORT_443_TCP_PROTO",
        "TIDEGATE_EDGE_LB_SERVICE_HOST",
        "TIDEGATE_SERVICE_PORT",
    ];
    for name in names {
        let result = from_variables(&[(name, "tcp://10.0.0.1:5000")]);
        let warnings = result.unwrap_or_else(|error| panic!("{name}: {error}")).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(name), "{warnings:?}");
    }
}

#[test]
fn the_two_documented_command_lines_load() {
    let variables = [
        ("REGISTRY_HTTP_ADDR", "0.0.0.0:443"),
        ("REGISTRY_HTTP_TLS_CERTIFICATE", "/data/tls/fullchain.pem"),
        ("REGISTRY_HTTP_TLS_KEY", "/data/tls/privkey.pem"),
        ("REGISTRY_PROXY_REMOTEURL", "https://registry-1.docker.io"),
        ("REGISTRY_PROXY_USERNAME", "bot"),
        ("REGISTRY_PROXY_PASSWORD", "dckr_pat_x"),
        ("PATH", "/bin"),
    ];
    let config = from_variables(&variables).unwrap();
    assert!(config.warnings.is_empty() && config.http.tls.is_some() && config.proxy.configured);
    assert_eq!(config.http.listen, Listen::Tcp("0.0.0.0:443".parse().unwrap()));
}

#[test]
fn a_file_that_is_missing_is_one_problem() {
    let variables = [("REGISTRY_PROXY_USERNAME", "bot"), ("REGISTRY_PROXY_PASSWORD_FILE", "/nowhere")];
    assert_eq!(from_variables(&variables).unwrap_err().problems().len(), 1);
}

#[test]
fn a_path_is_never_read_from_a_file() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "-----BEGIN PRIVATE KEY-----").unwrap();
    let path = key.path().to_str().unwrap();
    let errors = from_variables(&[("REGISTRY_HTTP_TLS_KEY_FILE", path)]).unwrap_err();
    assert_eq!((errors.problems().len(), errors.problems()[0].key.as_str()), (1, "http.tls.key"));
    let text = errors.to_string();
    assert!(text.contains("set REGISTRY_HTTP_TLS_KEY to") && !text.contains("PRIVATE"), "{text}");
}

#[test]
fn the_name_of_a_variable_can_not_write_to_a_terminal() {
    let config = from_variables(&[("REGISTRY_\u{1b}[2J", "x")]).unwrap();
    assert!(config.warnings.iter().all(|warning| !warning.contains('\u{1b}')), "{:?}", config.warnings);
    assert_eq!(config.warnings.len(), 1);
}
