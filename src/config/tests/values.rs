use std::time::Duration;

use super::*;

/// A file that loads with just these warnings.
#[track_caller]
fn check(text: &str, warnings: &[&str]) -> Config {
    let config = from_yaml(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.warnings.len(), warnings.len(), "{:?}", config.warnings);
    for (warning, expected) in config.warnings.iter().zip(warnings) {
        assert!(warning.contains(expected), "{warning}");
        assert!(!warning.contains("hunter2"), "{warning}");
    }
    config
}

#[test]
fn what_is_not_acted_on_is_named_once() {
    check("redis: {addr: a, password: hunter2}", &["redis ("]);
    check("middleware: {storage: [{name: cloudfront}]}", &["middleware ("]);
    check("notifications: {endpoints: [{name: a, url: b}]}", &["notifications ("]);
    check("proxy: {cachewritetimeout: 5m}", &["proxy.cachewritetimeout ("]);
    check(
        "storage: {cache: {blobdescriptor: redis, blobdescriptorsize: 1}}",
        &["size (", "blobdescriptor ("],
    );
    check("storage: {cache: {layerinfo: redis}}", &["storage.cache.blobdescriptor ("]);
    check("storage: {maintenance: {uploadpurging: {enabled: true}}}", &["storage.maintenance ("]);
    check("http: {host: 'https://a', h2c: {enabled: true}}", &["http.host (", "http.h2c ("]);
    check("log: {hooks: [{type: mail}]}", &["log.hooks ("]);
    check("nonsense: hunter2\nhttp: {adr: :1}", &["nonsense (", "http.adr ("]);
    let config =
        from_variables(&[("REGISTRY_REDIS_ADDR", "a"), ("REGISTRY_REDIS_PASSWORD", "hunter2")]).unwrap();
    assert!(config.warnings.len() == 1 && config.warnings[0].contains("REGISTRY_REDIS_ADDR"));
    let config =
        from_variables(&[("REGISTRY_NONSENSE", "hunter2"), ("REGISTRY_HTTP_ADDR_X", "hunter2")]).unwrap();
    assert!(config.warnings.len() == 2 && !config.warnings.concat().contains("hunter2"));
}

#[test]
fn what_changes_nothing_makes_no_noise() {
    check("http: {secret: hunter2, h2c: {enabled: false}}", &[]);
    check("storage: {delete: {enabled: true}, redirect: {disable: true}, tag: {concurrencylimit: 8}}", &[]);
    check(
        "storage: {filesystem: {rootdirectory: /x, maxthreads: 50}, maintenance: {readonly: {enabled: false}}}",
        &[],
    );
    check("log: {reportcaller: true}\nvalidation: {disabled: false}\nnotifications:\nredis: {}", &[]);
    assert!(
        from_variables(&[("REGISTRY_HTTP_SECRET", "x"), ("REGISTRY_VERSION", "0.1")])
            .unwrap()
            .warnings
            .is_empty()
    );
    for name in [
        "REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED",
        "REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING_ENABLED",
    ] {
        assert!(from_variables(&[(name, "false")]).unwrap().warnings.is_empty());
        assert_eq!(from_variables(&[(name, "true")]).unwrap().warnings.len(), 1);
    }
}

#[test]
fn old_tls_is_accepted_and_not_spoken() {
    let pair = "certificate: /c, key: /k";
    let config = check(&format!("http: {{tls: {{{pair}, minimumtls: tls1.0}}}}"), &["TLS 1.2 is the least"]);
    assert!(!config.http.tls.unwrap().only_1_3);
    let suites = "[TLS_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]";
    let config = check(
        &format!("http: {{tls: {{{pair}, ciphersuites: {suites}}}}}"),
        &["TLS_RSA_WITH_AES_128_CBC_SHA"],
    );
    assert_eq!(config.http.tls.unwrap().suites, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
    let config = check(&format!("http: {{tls: {{{pair}, minimumtls: tls1.3}}}}"), &[]);
    assert!(config.http.tls.unwrap().only_1_3);
}

#[test]
fn the_upstream_has_the_name_of_its_host_if_that_is_known() {
    for (url, expected) in [
        ("https://quay.io", "quay.io"),
        ("https://PUBLIC.ECR.AWS/", "public.ecr.aws"),
        ("https://mirror.example:5000", "docker.io"),
    ] {
        let config = check(&format!("proxy: {{remoteurl: '{url}'}}"), &[]);
        assert_eq!((config.proxy.name.as_str(), config.proxy.name_configured), (expected, false));
    }
    let config = check("tidegate: {proxy: {name: Corp.example}}", &[]);
    assert_eq!((config.proxy.name.as_str(), config.proxy.name_configured), ("corp.example", true));
}

#[test]
fn a_bare_number_is_nanoseconds_and_is_pointed_out() {
    let config = check("http: {draintimeout: 30}", &["for seconds write 30s"]);
    assert_eq!(config.http.drain, Duration::from_nanos(30));
    assert!(check("http: {draintimeout: 0}", &[]).http.drain.is_zero());
    assert_eq!(check("http: {draintimeout: ~}", &[]).http.drain, Duration::from_secs(30));
}

#[test]
fn a_socket_of_unix_is_a_path() {
    let config = check("http: {net: unix, addr: /run/tidegate.sock, prefix: /a/b/}", &[]);
    assert_eq!(config.http.listen, Listen::Unix("/run/tidegate.sock".into()));
    assert_eq!(config.http.prefix, "/a/b");
    assert_eq!(check("http: {net: tcp, prefix: /}", &[]).http.prefix, "");
}

#[test]
fn checks_have_the_defaults_of_registry() {
    let text =
        "health: {http: [{uri: 'http://a/b', headers: {X-A: [b, c]}}], tcp: [{addr: 'a:1', interval: 1ms}]}";
    let config = check(text, &["ten times a second"]);
    let [http, tcp] = config.health.checks.as_slice() else { panic!("{:?}", config.health) };
    assert_eq!(
        (http.interval, http.timeout, http.threshold),
        (Duration::from_secs(10), Duration::from_secs(5), 0)
    );
    let Probe::Http { status, headers, .. } = &http.probe else { panic!("{http:?}") };
    assert_eq!((*status, headers), (200, &pairs(&[("X-A", "b"), ("X-A", "c")])));
    assert_eq!(tcp.interval, Duration::from_millis(100));
}

#[test]
fn pages_have_limits() {
    let config = check("catalog: {maxentries: 5}\ntags: {maxtags: 1_0}", &[]);
    assert_eq!((config.catalog_max, config.tags_max), (5, 10));
    assert_eq!(check("catalog: {maxentries: -1}\ntags: {maxtags: 0}", &[]).tags_max, 1000);
}

#[test]
fn levels_are_taken_in_any_case() {
    assert_eq!(check("log: {level: WARN}", &[]).log.level, Level::Warn);
}

#[test]
fn access_lines_can_be_richer_or_off() {
    let access = |text: &str| check(text, &[]).log.access;
    assert_eq!(access("tidegate: {log: {access: combined+}}"), Some(AccessFormat::CombinedPlus));
    assert_eq!(access("log: {accesslog: {disabled: on}}"), None);
}

/// The paths of all keys, whatever becomes of them.
fn paths(fields: &[schema::Field], parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    for field in fields {
        let path = compat::join(parent, field.name);
        match field.kind {
            schema::Kind::Keys(below) => found.extend(paths(below, &path)),
            schema::Kind::Each(below) => found.extend(paths(below, &path)),
            _ => found.push(path),
        }
    }
    found
}

#[test]
fn every_key_is_documented() {
    let document = include_str!("../../../docs/configuration.md");
    let paths = paths(schema::ROOT, "");
    assert!(paths.len() > 80, "{paths:?}");
    for path in paths {
        assert!(document.contains(&format!("`{path}`")), "{path} is not in docs/configuration.md");
    }
}

#[test]
fn how_much_is_kept_and_for_how_long() {
    let cache = check("log: {level: info}", &[]).cache;
    assert_eq!(cache, Cache::default());
    assert_eq!((cache.max_size, cache.min_free), (Share::Percent(80), Share::Percent(5)));
    assert_eq!((cache.hold, cache.idle, cache.evict_adopted), (Duration::from_secs(600), None, false));
    let text = "proxy: {ttl: 168h}\ntidegate: {cache: {maxsize: 200MiB, minfree: 1 GB, hold: 0s, evictadopted: true, durability: relaxed}}";
    let cache = check(text, &[]).cache;
    assert_eq!((cache.max_size, cache.min_free), (Share::Bytes(200 << 20), Share::Bytes(1_000_000_000)));
    assert_eq!((cache.hold, cache.evict_adopted), (Duration::ZERO, true));
    assert_eq!(cache.durability, Durability::Relaxed);
    assert_eq!(cache.idle, Some(Duration::from_secs(604_800)));
    assert_eq!(check("proxy: {ttl: 0s}", &[]).cache.idle, None);
    let variables = [("TIDEGATE_CACHE_MAXSIZE", "70%"), ("REGISTRY_PROXY_TTL", "1h")];
    let cache = from_variables(&variables).unwrap().cache;
    assert_eq!((cache.max_size, cache.idle), (Share::Percent(70), Some(Duration::from_secs(3600))));
}

#[test]
fn certificates_from_a_ca_are_read_as_registry_reads_them() {
    assert_eq!(from_variables(&[]).unwrap().acme, None);
    let config =
        from_variables(&[("REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS", "[a.example, B.example, a.example]")]);
    let acme = config.unwrap().acme.unwrap();
    assert_eq!(acme.hosts, ["a.example", "b.example"].map(|name| name.parse().unwrap()));
    assert_eq!(acme.directory.host_str(), Some("acme-v02.api.letsencrypt.org"));
    assert_eq!(acme.challenges, [Challenge::TlsAlpn01, Challenge::Http01]);
    assert_eq!(acme.http, Some(Listen::Anywhere(80)));
    let all = from_variables(&[
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS", "a.example"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL", "admin@a.example"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEFILE", "/le"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_DIRECTORYURL", "https://ca.example/dir"),
        ("TIDEGATE_ACME_CAFILE", "/ca.pem"),
        ("TIDEGATE_ACME_CHALLENGES", "http-01"),
        ("TIDEGATE_ACME_FALLBACK", "https://other.example/dir"),
        ("TIDEGATE_EDGE_HTTP", "off"),
    ]);
    let all = all.unwrap();
    let acme = all.acme.clone().unwrap();
    assert_eq!((acme.email.as_deref(), acme.http.clone()), (Some("admin@a.example"), None));
    assert_eq!(acme.challenges, [Challenge::Http01]);
    assert_eq!(from_both(&all.effective(), &[]).unwrap().acme, Some(acme));
}

#[test]
fn certificates_come_from_files_from_a_folder_or_from_both() {
    let config = from_yaml("tidegate: {tls: {dir: certs}}").unwrap();
    let tls = config.http.tls.unwrap();
    assert_eq!((tls.files, tls.folder.unwrap().to_str(), tls.keep), (None, Some("certs"), true));
    let clients =
        "http: {tls: {certificate: /c, key: /k, clientcas: /a.pem, clientauth: VERIFY-client-cert-if-given}}";
    let clients = from_yaml(clients).unwrap().http.tls.unwrap().clients.unwrap();
    assert_eq!(clients.demand, ClientDemand::VerifyIfGiven);
    let default = from_yaml("http: {tls: {certificate: /c, key: /k, clientcas: [/a.pem, /b.pem]}}");
    let default = default.unwrap().http.tls.unwrap().clients.unwrap();
    assert_eq!((default.authorities.len(), default.demand), (2, ClientDemand::RequireAndVerify));
}

#[test]
fn who_may_come_in() {
    let edge = check("log: {level: info}", &[]).edge;
    assert!(edge.allow.is_empty() && edge.proxies.is_empty() && edge.plain.is_none() && edge.hsts.is_none());
    assert_eq!((edge.connections, edge.per_client), (20_000, None));
    let text = "
tidegate:
  edge:
    plain: ':80'
    allow: [10.1.2.3/8, 2001:db8::7, '::ffff:192.0.2.1']
    proxyprotocol: 'off'
    alpn: http/1.1, h2
    connections: 500
    perclient: 20
    hsts: 24h
auth: {htpasswd: {realm: a b, path: /etc/logins}}
";
    let config = check(text, &[]);
    let allow: Vec<String> = config.edge.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["10.0.0.0/8", "2001:db8::7/128", "192.0.2.1/32"]);
    assert_eq!(config.edge.plain, Some(Listen::Anywhere(80)));
    assert_eq!(config.edge.alpn, [Protocol::Http1, Protocol::Http2]);
    assert_eq!((config.edge.connections, config.edge.per_client), (500, Some(20)));
    assert!(config.edge.proxies.is_empty() && config.edge.hsts == Some(Duration::from_secs(86_400)));
    assert_eq!(config.htpasswd.as_ref().map(|logins| logins.realm.as_str()), Some("a b"));
    let again = from_both(&config.effective(), &[]).unwrap();
    assert_eq!((again.edge, again.htpasswd), (config.edge, config.htpasswd));
}
