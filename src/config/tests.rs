mod files;
mod overlay;
mod refusals;
mod values;

use std::io::Write;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;

fn pairs(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn written(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Loads variables alone, whatever this machine has in `/etc`.
fn from_variables(variables: &[(&str, &str)]) -> Result<Config, Errors> {
    let inputs = Inputs { file: None, variables: pairs(variables) };
    Config::load_with_defaults(&inputs, &[])
}

fn from_both(text: &str, variables: &[(&str, &str)]) -> Result<Config, Errors> {
    let file = written(text);
    let inputs = Inputs { file: Some(file.path().to_owned()), variables: pairs(variables) };
    Config::load(&inputs)
}

/// Loads a file; its version is added.
fn from_yaml(text: &str) -> Result<Config, Errors> {
    from_both(&format!("version: 0.1\n{text}"), &[])
}

/// Words, names and signs that the keys and YAML know, so that chance gets somewhere.
const FRAGMENTS: &str = "(log|level|http|addr|tls|key|storage|filesystem|s3|proxy|remoteurl|password|health|tcp|\
    tidegate|tags|fresh|version|0.1|true|info|:5000|https://a@b/c|5s|~|\\*a|&a|!!str|<<|---|[\\[\\]{}:,#\"'|>%@_-]|\
    \n|\n  |\n    |: |- |\\PC){0,60}";

const NAMES: &str = "(REGISTRY|TIDEGATE)(_(LOG|LEVEL|FIELDS|HTTP|HEADERS|TLS|CERTIFICATE|CIPHERSUITES|STORAGE|S3|\
    FILESYSTEM|PROXY|REMOTEURL|PASSWORD|HEALTH|TCPCHECKERS|ADDR|TAGS|FRESH|EDGE|AUTH|REDIS|PORT|FILE|0|1|9|)){0,5}";

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_a_list_of_problems(text in FRAGMENTS) {
        let _ = from_yaml(&text);
        let _ = from_both(&text, &[]);
    }

    #[test]
    fn any_variables_are_a_configuration_or_a_list_of_problems(
        variables in proptest::collection::vec((NAMES, FRAGMENTS), 0..8),
    ) {
        let inputs = Inputs { file: None, variables };
        match Config::load_with_defaults(&inputs, &[]) {
            Ok(config) => prop_assert!(from_both(&config.effective(), &[]).is_ok()),
            Err(errors) => prop_assert!(!errors.to_string().is_empty()),
        }
    }

    #[test]
    fn a_password_is_taken_as_it_is_and_never_shown(password in "\\PC{1,40}") {
        let variables = [("REGISTRY_PROXY_USERNAME", "bot"), ("REGISTRY_PROXY_PASSWORD", &password)];
        let config = from_variables(&variables).unwrap();
        let account = config.proxy.account.unwrap();
        prop_assert_eq!(account.password.expose(), password);
    }
}
