//! `tidegate.admin.*`.

use std::path::{Path, PathBuf};

use crate::config::reader::Reader;
use crate::config::{Admin, Storage};
use crate::sys::files;

/// What of the environment says where sockets are put.
#[derive(Debug, Clone, Default)]
pub(in crate::config) struct Places {
    /// `RUNTIME_DIRECTORY`: the unit's own folder.
    pub(in crate::config) unit: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`: the user's.
    pub(in crate::config) user: Option<PathBuf>,
}

impl Places {
    /// Reads them; a relative path is none.
    pub(in crate::config) fn of(variables: &[(String, String)]) -> Self {
        let absolute = |name: &str| {
            let found = variables.iter().find(|(key, _)| key == name)?;
            // Several folders of a unit are separated by colons.
            let first = found.1.split(':').next().unwrap_or_default();
            Some(PathBuf::from(first)).filter(|path| path.is_absolute())
        };
        Self { unit: absolute("RUNTIME_DIRECTORY"), user: absolute("XDG_RUNTIME_DIR") }
    }
}

pub(in crate::config) fn admin(reader: &mut Reader<'_>, places: &Places, storage: &Storage) -> Admin {
    let socket = reader.text("tidegate.admin.socket").map(|found| PathBuf::from(found.text));
    let group = places.unit.is_some();
    let socket = socket.unwrap_or_else(|| folder(places, storage, files::is_root()).join("admin.sock"));
    Admin { socket, group }
}

fn folder(places: &Places, storage: &Storage, root_user: bool) -> PathBuf {
    let own = match storage {
        Storage::Filesystem { root, .. } => root.join("tidegate"),
        Storage::Temporary => std::env::temp_dir().join("tidegate"),
    };
    let user = places.user.as_ref().map(|user| user.join("tidegate"));
    let system = root_user.then(|| Path::new("/run/tidegate").to_owned());
    places.unit.clone().or(system).or(user).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_where_its_owner_looks_for_it() {
        let storage = Storage::Filesystem { root: "/data".into(), configured: true };
        let path = |pairs: &[(&str, &str)], root_user| {
            let variables: Vec<_> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            folder(&Places::of(&variables), &storage, root_user).display().to_string()
        };
        let all = [("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("XDG_RUNTIME_DIR", "/run/user/1")];
        assert_eq!(path(&all, true), "/run/a");
        assert_eq!(path(&all[1..], true), "/run/tidegate");
        assert_eq!(path(&all[1..], false), "/run/user/1/tidegate");
        assert_eq!(path(&[("XDG_RUNTIME_DIR", "relative")], false), "/data/tidegate");
    }
}
