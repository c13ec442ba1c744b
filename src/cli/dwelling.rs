//! Where the cache lives: the configured root, the default one, or the home of somebody who just tries it out.

use std::path::{Path, PathBuf};

use crate::config::{Config, Inputs, Storage};
use crate::store::{Owner, PushVolume, Store, StoreError};
use crate::sys::files;

/// What of the environment says who runs us.
#[derive(Debug, Default)]
struct Surroundings {
    root_user: bool,
    managed: bool,
    home: Option<PathBuf>,
}

/// Opens the store. Says so where it is not the one that the configuration names.
pub fn open(config: &Config, inputs: &Inputs) -> Result<Store, StoreError> {
    let account = config.proxy.account.as_ref().map(|account| account.username.as_str());
    let owner = Owner::new(&config.proxy.name, account);
    let push_volume = if config.proxy.configured { PushVolume::Allow } else { PushVolume::Refuse };
    match &config.storage {
        Storage::Temporary => Store::temporary(&owner),
        Storage::Filesystem { root, configured: true } => Store::open(root, push_volume, &owner),
        Storage::Filesystem { root, configured: false } => match Store::open(root, push_volume, &owner) {
            Err(error @ StoreError::Unwritable { .. }) => {
                let home = fallback(&surroundings(inputs)).ok_or(error)?;
                let (default, instead) = (root.display(), home.display());
                tracing::warn!("{default} can't be written by this user: the cache is in {instead} instead");
                Store::open(&home, PushVolume::Allow, &owner)
            }
            opened => opened,
        },
    }
}

/// Where a sidecar keeps its certificates: it has no cache, and no root. That of its unit, else the system's, or the user's.
pub fn state(inputs: &Inputs) -> PathBuf {
    let unit = inputs.variables.iter().find(|(name, _)| name == "STATE_DIRECTORY");
    let unit = unit.and_then(|(_, folders)| folders.split(':').next()).map(PathBuf::from);
    let around = surroundings(inputs);
    let home = around.home.filter(|_| !around.root_user).map(|home| home.join("tidegate"));
    unit.filter(|unit| unit.is_absolute()).or(home).unwrap_or_else(|| "/var/lib/tidegate".into())
}

/// The folder in the user's home, only for a person who started us by hand.
fn fallback(around: &Surroundings) -> Option<PathBuf> {
    if around.root_user || around.managed {
        return None;
    }
    around.home.as_ref().map(|home| home.join("tidegate"))
}

fn surroundings(inputs: &Inputs) -> Surroundings {
    let variable =
        |name: &str| inputs.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let container = set("container")
        || [Path::new("/.dockerenv"), Path::new("/run/.containerenv")].iter().any(|mark| mark.exists());
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // The XDG base directory specification: a relative path is to be ignored.
    let home = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    Surroundings { root_user: files::is_root(), managed: container || set("INVOCATION_ID"), home }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_falls_back_to_the_home() {
        let home = Some(PathBuf::from("/home/a/.local/share"));
        let person = Surroundings { home: home.clone(), ..Surroundings::default() };
        assert_eq!(fallback(&person), Some("/home/a/.local/share/tidegate".into()));
        assert_eq!(
            fallback(&Surroundings { root_user: true, home: home.clone(), ..Surroundings::default() }),
            None
        );
        assert_eq!(fallback(&Surroundings { managed: true, home, ..Surroundings::default() }), None);
        assert_eq!(fallback(&Surroundings::default()), None);
    }
}
