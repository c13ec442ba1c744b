//! `auth.htpasswd`.

use std::path::PathBuf;

use crate::config::Htpasswd;
use crate::config::reader::Reader;
use crate::config::report::Problem;

pub(in crate::config) fn htpasswd(reader: &mut Reader<'_>) -> Option<Htpasswd> {
    let node = reader.node("auth.htpasswd")?;
    let realm = reader.text("auth.htpasswd.realm");
    let path = reader.text("auth.htpasswd.path");
    for (key, found) in [("auth.htpasswd.realm", &realm), ("auth.htpasswd.path", &path)] {
        if found.is_none() {
            let fix = "set realm and path of auth.htpasswd, or remove it to let everybody in";
            let problem = Problem::new(key, "it must be set for auth.htpasswd", fix).at(&node.origin);
            reader.report.refuse(problem);
        }
    }
    if let Some(found) = realm.as_ref().filter(|found| found.text.chars().any(|c| !(' '..='~').contains(&c)))
    {
        let problem = found.problem("it does not fit a header", "use letters, digits and signs of ASCII");
        reader.report.refuse(problem);
    }
    Some(Htpasswd { realm: realm?.text, path: PathBuf::from(path?.text) })
}
