use super::*;

/// A file that is refused, by which key and why.
#[track_caller]
fn check(text: &str, key: &str, reason: &str) {
    let errors = from_yaml(text).expect_err(text);
    let problem = errors.problems().iter().find(|problem| problem.key == key);
    let problem = problem.unwrap_or_else(|| panic!("{text}: {errors}"));
    assert!(problem.reason.contains(reason), "{problem}");
    assert!(!problem.fix.is_empty() && !problem.origin.is_empty(), "{problem}");
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
}

#[test]
fn what_would_let_anybody_in_is_refused() {
    check("auth: {htpasswd: {realm: r}}", "auth.htpasswd.path", "must be set");
    check("auth: htpasswd", "auth.htpasswd.realm", "must be set");
    check("auth: {token: {realm: r}}", "auth.token", "takes no tokens");
    check("auth: {silly: }", "auth.silly", "no protection");
    check("auth: {ldap: {}}", "auth.ldap", "no such way");
    check("http: {tls: {clientcas: [/ca.pem]}}", "http.tls.clientcas", "everybody");
    check("http: {tls: {clientauth: maybe}}", "http.tls.clientauth", "no such value");
    assert!(from_yaml("auth: none").unwrap().warnings.is_empty());
    assert!(from_yaml("auth:").unwrap().warnings.is_empty());
}

#[test]
fn other_drivers_are_refused() {
    check("storage: {s3: {secretkey: hunter2}}", "storage.s3", "a folder only");
    check("storage: s3", "storage.s3", "a folder only");
    check("storage: {tape: }", "storage.tape", "no such storage driver");
    check(
        "storage: {filesystem: , inmemory: }",
        "storage",
        "several storage drivers are set: filesystem, inmemory",
    );
    let file = "version: 0.1\nstorage: {filesystem: }";
    let errors = from_both(file, &[("REGISTRY_STORAGE_S3_SECRETKEY", "hunter2")]).unwrap_err();
    assert_eq!(errors.problems().len(), 2, "{errors}");
}

#[test]
fn what_this_version_does_not_have_is_refused() {
    check("proxy: {exec: {command: x}}", "proxy.exec", "no credential helper");
    for key in ["edge.ktls", "debug.allow"] {
        let (group, name) = key.split_once('.').unwrap();
        check(
            &format!("tidegate: {{{group}: {{{name}: x}}}}"),
            &format!("tidegate.{key}"),
            "does not have it",
        );
        let variable = format!("TIDEGATE_{}", key.to_uppercase().replace('.', "_"));
        assert!(from_variables(&[(&variable, "x")]).is_err(), "{variable}");
    }
    assert!(from_yaml("http: {tls: {letsencrypt: {email: '', hosts: []}}}").is_ok());
}

#[test]
fn certificates_from_a_ca_want_names_that_it_can_prove() {
    let hosts = |hosts: &str| format!("http: {{tls: {{letsencrypt: {{hosts: [{hosts}]}}}}}}");
    check(&hosts("'*.example.org'"), "http.tls.letsencrypt.hosts", "write to its DNS");
    check(&hosts("192.0.2.1"), "http.tls.letsencrypt.hosts", "an address");
    check(&hosts("localhost"), "http.tls.letsencrypt.hosts", "without a dot");
    let many: Vec<String> = (0..101).map(|n| format!("m{n}.example.org")).collect();
    check(&hosts(&many.join(", ")), "http.tls.letsencrypt.hosts", "more than 100");
    for alone in ["email: a@b.example", "cachefile: /c", "directoryurl: 'https://ca.example/d'"] {
        let key = format!("http.tls.letsencrypt.{}", alone.split(':').next().unwrap());
        check(&format!("http: {{tls: {{letsencrypt: {{{alone}}}}}}}"), &key, "names no host");
    }
    check("tidegate: {acme: {cafile: /c}}", "tidegate.acme.cafile", "names no host");
    let with = |rest: &str| format!("http: {{tls: {{letsencrypt: {{hosts: [a.example], {rest}}}}}}}");
    check(&with("directoryurl: 'http://ca.example/d'"), "http.tls.letsencrypt.directoryurl", "without TLS");
    check(&with("email: nobody"), "http.tls.letsencrypt.email", "no mail address");
    check("tidegate: {acme: {challenges: [dns-01]}}", "tidegate.acme.challenges", "no such challenge");
    check("tidegate: {edge: {http: nowhere}}", "tidegate.edge.http", "no address");
}

#[test]
fn a_scrub_that_reads_nothing_is_refused() {
    check("tidegate: {cache: {scrubrate: 0}}", "tidegate.cache.scrubrate", "nothing would ever be read");
    check("tidegate: {cache: {scrubrate: fast}}", "tidegate.cache.scrubrate", "no number of bytes");
    check("tidegate: {cache: {scrub: 30d}}", "tidegate.cache.scrub", "no duration");
    let cache = from_yaml("tidegate: {cache: {scrub: 0s, scrubrate: 1.5 mib}}").unwrap().cache;
    assert_eq!((cache.scrub, cache.scrub_bytes_per_second), (std::time::Duration::ZERO, 3 << 19));
    let cache = from_yaml("").unwrap().cache;
    assert_eq!((cache.scrub.as_secs(), cache.scrub_bytes_per_second), (30 * 24 * 3600, 16 << 20));
}

#[test]
fn unknown_keys_of_ours_are_refused() {
    check("tidegate: {tag: {fresh: 1s}}", "tidegate.tag", "no such key");
    check("tidegate: {tags: {Fresh: 1s}}", "tidegate.tags.Fresh", "no such key");
    for name in ["TIDEGATE_TAG_FRESH", "TIDEGATE_TAGS_FRESH_X", "TIDEGATE_PROXY_REALMS_X", "TIDEGATE_"] {
        assert!(from_variables(&[(name, "1s")]).is_err(), "{name}");
    }
}

#[test]
fn unknown_words_are_refused() {
    check("log: {level: trace}", "log.level", "no such value");
    check("log: {formatter: xml}", "log.formatter", "no such value");
    check("log: {accesslog: {disabled: 1}}", "log.accesslog.disabled", "neither true nor false");
    check("tidegate: {log: {access: common}}", "tidegate.log.access", "no such value");
    check("tidegate: {tags: {gone: maybe}}", "tidegate.tags.gone", "no such value");
    check("tidegate: {tags: {stalefor: never}}", "tidegate.tags.stalefor", "no duration");
    check("tidegate: {cache: {maxsize: much}}", "tidegate.cache.maxsize", "no size");
    check("tidegate: {cache: {durability: none}}", "tidegate.cache.durability", "no such durability");
    check("tidegate: {cache: {minfree: 101%}}", "tidegate.cache.minfree", "no size");
    check("http: {draintimeout: -1s}", "http.draintimeout", "negative");
    check("catalog: {maxentries: many}", "catalog.maxentries", "no whole number");
    check("http: {tls: {minimumtls: ssl3}}", "http.tls.minimumtls", "unknown minimum TLS level");
    check(
        "http: {tls: {ciphersuites: [TLS_RSA_WITH_RC4_128_SHA]}}",
        "http.tls.ciphersuites",
        "no such cipher suite",
    );
    check(
        "http: {tls: {ciphersuites: [TLS_RSA_WITH_AES_128_CBC_SHA]}}",
        "http.tls.ciphersuites",
        "none of the",
    );
}

#[test]
fn an_upstream_is_scheme_and_host() {
    let key = "proxy.remoteurl";
    check("proxy: {remoteurl: registry-1.docker.io}", key, "no URL");
    check("proxy: {remoteurl: 'localhost:5000'}", key, "neither https nor http");
    check("proxy: {remoteurl: 'ftp://a'}", key, "neither https nor http");
    check("proxy: {remoteurl: 'https://'}", key, "no URL");
    check("proxy: {remoteurl: 'https://bot:hunter2@a'}", key, "login");
    check("proxy: {remoteurl: 'bot:hunter2@a'}", key, "neither https nor http");
    check("proxy: {remoteurl: 'https://a?b=hunter2'}", key, "query");
    let config = from_yaml("proxy: {remoteurl: 'https://a/foo/'}").unwrap();
    assert_eq!((config.proxy.remoteurl.as_str(), config.warnings.len()), ("https://a/", 1));
    assert!(from_yaml("proxy: {remoteurl: 'https://a/'}").unwrap().warnings.is_empty());
}

#[test]
fn what_belongs_together_is_set_together() {
    check("proxy: {username: bot}", "proxy.username", "proxy.password is not set");
    check("proxy: {password: hunter2}", "proxy.password", "proxy.username is not set");
    check("http: {tls: {certificate: /c}}", "http.tls.certificate", "http.tls.key is not set");
    check("http: {tls: {key: /k}}", "http.tls.key", "http.tls.certificate is not set");
    let both = "http: {tls: {certificate: /c, key: /k, letsencrypt: {cachefile: /l}}}";
    check(both, "http.tls.certificate", "both certificate and Let's Encrypt");
    check("http: {net: unix}", "http.net", "needs a path");
    check("http: {net: udp}", "http.net", "no such kind");
    check("health: {http: [{statuscode: 200}]}", "health.http.0.uri", "not set");
}

#[test]
fn addresses_names_and_headers_are_checked() {
    check("http: {addr: 'hub.example:80'}", "http.addr", "no IP address");
    check("http: {debug: {addr: '5001'}}", "http.debug.addr", "names no port");
    check("http: {debug: {prometheus: {path: metrics}}}", "http.debug.prometheus.path", "slash");
    check("http: {prefix: mirror}", "http.prefix", "starts with a slash");
    check("http: {headers: {'a b': [c]}}", "http.headers.a b", "no name");
    check("http: {headers: {a: [\"c\\nd\"]}}", "http.headers.a", "no value");
    check("http: {headers: {Content-Length: ['1']}}", "http.headers.Content-Length", "where an answer ends");
    check("tidegate: {proxy: {name: 'a b'}}", "tidegate.proxy.name", "no name");
    check("tidegate: {proxy: {realms: ['a/b']}}", "tidegate.proxy.realms", "no host");
    check("tidegate: {proxy: {deny: [A]}}", "tidegate.proxy.deny", "pattern");
    check("health: {tcp: [{addr: db}]}", "health.tcp.0.addr", "no host and port");
    check("health: {http: [{uri: db}]}", "health.http.0.uri", "no URL");
    check("health: {http: [{uri: 'http://a', statuscode: 7}]}", "health.http.0.statuscode", "no status");
}

#[test]
fn shapes_are_checked() {
    check("http: 5000", "http", "it holds keys");
    check("[]", "", "no usable YAML");
    check("http: {addr: [a]}", "http.addr", "single value");
    check("proxy: {password: {hunter2: }}", "proxy.password", "single value");
    check("http: {headers: a}", "http.headers", "names with values");
    check("http: {tls: {ciphersuites: {a: b}}}", "http.tls.ciphersuites", "list of texts");
    check("health: {tcp: {addr: a}}", "health.tcp", "it is a list");
    check("health: {tcp: [a]}", "health.tcp.0", "it holds keys");
    for (name, value) in
        [("REGISTRY_HTTP", "{addr"), ("REGISTRY_HTTP", "a"), ("REGISTRY_HEALTH_TCP_1_ADDR", "a:1")]
    {
        assert!(from_variables(&[(name, value)]).is_err(), "{name}={value}");
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let file = "version: 0.2\nlog: {level: loud}\nauth: {htpasswd: {path: /p}}\nproxy: {username: bot}";
    let errors =
        from_both(file, &[("REGISTRY_HTTP_ADDR", "x"), ("TIDEGATE_TAGS_FRESH", "soon")]).unwrap_err();
    let keys: Vec<_> = errors.problems().iter().map(|problem| problem.key.as_str()).collect();
    let expected =
        ["version", "log.level", "http.addr", "proxy.username", "tidegate.tags.fresh", "auth.htpasswd.realm"];
    assert_eq!(keys, expected, "{errors}");
    let text = errors.to_string();
    assert!(text.contains("http.addr = \"x\" (REGISTRY_HTTP_ADDR): "), "{text}");
    assert!(text.contains(":2:14): no such value\n  fix: use one of: error, warn, info, debug"), "{text}");
}

#[test]
fn rules_for_clients_that_say_nothing_are_refused() {
    for key in ["allow", "proxyprotocol"] {
        let key = format!("tidegate.edge.{key}");
        let name = key.rsplit('.').next().unwrap();
        check(&format!("tidegate: {{edge: {{{name}: [10.0.0.0/8, here]}}}}"), &key, "no network");
        check(&format!("tidegate: {{edge: {{{name}: 10.0.0.0/33}}}}"), &key, "no network");
    }
    check("tidegate: {edge: {connections: 0}}", "tidegate.edge.connections", "nobody could connect");
    check("tidegate: {edge: {perclient: 0}}", "tidegate.edge.perclient", "no number above 0");
    check("tidegate: {edge: {perclient: many}}", "tidegate.edge.perclient", "no number above 0");
    check("tidegate: {edge: {alpn: [h2, h3]}}", "tidegate.edge.alpn", "no such protocol");
    check("tidegate: {edge: {hsts: 1y}}", "tidegate.edge.hsts", "no duration");
    check("tidegate: {edge: {plain: http}}", "tidegate.edge.plain", "names no port");
    let both = "http: {http2: {disabled: true}}\ntidegate: {edge: {alpn: h2}}";
    check(both, "tidegate.edge.alpn", "http2.disabled");
}

#[test]
fn a_sidecar_has_no_keys_of_a_mirror() {
    let sidecar = "tidegate: {edge: {forward: 'http://127.0.0.1:5001'}}\n";
    for key in ["proxy: {ttl: 1h}", "storage: {filesystem: {rootdirectory: /x}}"] {
        check(&format!("{sidecar}{key}"), key.split(':').next().unwrap(), "there is none");
    }
    let cached = "tidegate: {edge: {forward: 'unix:/run/r'}, cache: {hold: 1s}}";
    check(cached, "tidegate.cache", "there is none");
    assert_eq!(from_yaml(&format!("{sidecar}tags: {{maxtags: 5}}")).unwrap().warnings.len(), 1);
}

#[test]
fn no_key_can_write_to_a_terminal() {
    let errors =
        from_yaml("storage: {filesystem: {rootdirectory: /x}, \"a\\e[2J\": {}}").unwrap_err().to_string();
    assert!(errors.contains("several storage drivers") && !errors.contains('\u{1b}'), "{errors:?}");
}
