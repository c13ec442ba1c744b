//! Those who write certificates, each with the steps that it really makes. Between two steps anybody may read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::authority::Texts;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// Two files, truncated and written in place; the certificate first, as lego does it.
    CertificateFirst,
    /// The same with the key first.
    KeyFirst,
    /// acme.sh: `cat new > target`, in pieces.
    Cat,
    /// Temporary files, renamed over the old ones.
    Move,
    /// One file with key and chain, renamed.
    Combined,
    /// Kubernetes: a new folder, and the link `..data` is renamed over.
    Kubernetes,
    /// certbot: four links from `live` to `archive`, moved one by one.
    Certbot,
    /// The whole folder is another one.
    Folder,
    /// The folder is removed, and made again.
    Again,
}

pub const ALL: [Writer; 9] = [
    Writer::CertificateFirst,
    Writer::KeyFirst,
    Writer::Cat,
    Writer::Move,
    Writer::Combined,
    Writer::Kubernetes,
    Writer::Certbot,
    Writer::Folder,
    Writer::Again,
];

/// Writes a pair into a folder, whatever was in there. `number` grows with each.
pub fn write(writer: Writer, folder: &Path, pair: &Texts, number: u32) {
    let (chain, key) = (pair.chain(), pair.key.clone());
    let (certificate_path, key_path) = (folder.join("fullchain.pem"), folder.join("privkey.pem"));
    if !matches!(writer, Writer::Folder | Writer::Again) {
        make(folder);
    }
    // Others may have left links here.
    if !matches!(writer, Writer::Kubernetes | Writer::Certbot | Writer::Move | Writer::Combined) {
        for path in [&certificate_path, &key_path] {
            if path.is_symlink() {
                fs::remove_file(path).unwrap();
            }
        }
    }
    match writer {
        Writer::CertificateFirst => {
            fs::write(&certificate_path, chain).unwrap();
            fs::write(&key_path, key).unwrap();
        }
        Writer::KeyFirst => {
            fs::write(&key_path, key).unwrap();
            fs::write(&certificate_path, chain).unwrap();
        }
        Writer::Cat => {
            slowly(&certificate_path, &chain);
            slowly(&key_path, &key);
        }
        Writer::Move => {
            replace(&certificate_path, &chain);
            replace(&key_path, &key);
        }
        Writer::Combined => replace(&folder.join("all.pem"), &format!("{key}{chain}")),
        Writer::Kubernetes => kubernetes(folder, &chain, &key, number),
        Writer::Certbot => certbot(folder, pair, number),
        Writer::Folder => {
            let aside = folder.with_extension("next");
            let _ = fs::remove_dir_all(&aside);
            fill(&aside, &chain, &key);
            if folder.exists() {
                fs::rename(folder, folder.with_extension(format!("was{number}"))).unwrap();
            }
            fs::rename(aside, folder).unwrap();
            let _ = fs::remove_dir_all(folder.with_extension(format!("was{number}")));
        }
        Writer::Again => {
            let _ = fs::remove_dir_all(folder);
            fill(folder, &chain, &key);
        }
    }
}

fn make(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
}

fn fill(folder: &Path, chain: &str, key: &str) {
    make(folder);
    fs::write(folder.join("fullchain.pem"), chain).unwrap();
    fs::write(folder.join("privkey.pem"), key).unwrap();
}

fn slowly(path: &Path, text: &str) {
    let mut file = fs::File::create(path).unwrap();
    for piece in text.as_bytes().chunks(200) {
        file.write_all(piece).unwrap();
        std::thread::yield_now();
    }
}

/// A file in the place of another, at once.
pub fn replace(path: &Path, text: &str) {
    let aside = path.with_extension("tmp");
    fs::write(&aside, text).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(aside, path).unwrap();
}

/// A link in the place of whatever was there, at once.
fn link(target: &Path, path: &Path) {
    let aside = path.with_file_name(".link");
    let _ = fs::remove_file(&aside);
    symlink(target, &aside).unwrap();
    fs::rename(aside, path).unwrap();
}

fn kubernetes(folder: &Path, chain: &str, key: &str, number: u32) {
    let next = folder.join(format!("..2026_{number}"));
    make(&next);
    fs::write(next.join("tls.crt"), chain).unwrap();
    fs::write(next.join("tls.key"), key).unwrap();
    for (name, target) in [("fullchain.pem", "..data/tls.crt"), ("privkey.pem", "..data/tls.key")] {
        if fs::read_link(folder.join(name)).ok() != Some(PathBuf::from(target)) {
            link(Path::new(target), &folder.join(name));
        }
    }
    let before = fs::read_link(folder.join("..data")).ok();
    link(next.file_name().unwrap().as_ref(), &folder.join("..data"));
    if let Some(before) = before {
        let _ = fs::remove_dir_all(folder.join(before));
    }
}

fn certbot(folder: &Path, pair: &Texts, number: u32) {
    let archive = folder.with_extension("archive");
    make(&archive);
    let files = [
        ("cert", pair.leaf.clone()),
        ("privkey", pair.key.clone()),
        ("chain", pair.issuer.clone()),
        ("fullchain", pair.chain()),
    ];
    for (name, text) in &files {
        fs::write(archive.join(format!("{name}{number}.pem")), text).unwrap();
    }
    for (name, _) in &files {
        let target = Path::new("..").join(archive.file_name().unwrap()).join(format!("{name}{number}.pem"));
        link(&target, &folder.join(format!("{name}.pem")));
    }
}
