//! What outlives a session: the account, the order that is under way, the ledger. A dry run has it in memory alone.

use std::io;
use std::sync::{Arc, Mutex};

use super::schedule::{Class, Ledger};
use super::storage::{Begun, Shelf, Storage};
use super::trouble::Trouble;
use crate::config::DnsName;
use crate::sys::clock;
use crate::sys::sync::lock;

/// The journal of one name at one CA.
#[derive(Debug)]
pub struct Journal {
    storage: Option<Storage>,
    shelf: Shelf,
    name: DnsName,
    /// In the place of the disk, in a dry run.
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    account: Option<Vec<u8>>,
    order: Option<Begun>,
}

impl Journal {
    /// On disk.
    pub fn new(storage: Storage, shelf: Shelf, name: DnsName) -> Self {
        Self { storage: Some(storage), shelf, name, memory: Arc::default() }
    }

    /// In memory: nothing of it is left.
    pub fn dry(shelf: Shelf, name: DnsName) -> Self {
        Self { storage: None, shelf, name, memory: Arc::default() }
    }

    /// The key of our account.
    pub async fn account(&self) -> Result<Option<Vec<u8>>, Trouble> {
        let shelf = self.shelf.clone();
        match self.on_disk(move |storage| storage.account(&shelf)).await {
            Some(read) => read,
            None => Ok(lock(&self.memory).account.clone()),
        }
    }

    /// Keeps the key of our account, before it is used for the first time.
    pub async fn keep_account(&self, key: Vec<u8>) -> Result<(), Trouble> {
        let (shelf, content) = (self.shelf.clone(), key.clone());
        let kept = self.on_disk(move |storage| storage.keep_account(&shelf, &content)).await;
        kept.unwrap_or_else(|| {
            lock(&self.memory).account = Some(key);
            Ok(())
        })
    }

    /// The order that is under way.
    pub async fn order(&self) -> Result<Option<Begun>, Trouble> {
        let (shelf, name) = (self.shelf.clone(), self.name.clone());
        match self.on_disk(move |storage| storage.order(&shelf, &name)).await {
            Some(read) => read,
            None => Ok(lock(&self.memory).order.clone()),
        }
    }

    /// An order is about to be made. Fails if the limits allow none now.
    pub async fn ordering(&self) -> Result<(), Trouble> {
        let (shelf, name) = (self.shelf.clone(), self.name.clone());
        let noted = self.on_disk(move |storage| {
            let now = clock::unix_ms() / 1000;
            let mut ledger = storage.ledger(&shelf, &name, now)?;
            let mut orders = storage.orders(&shelf)?;
            let allowed = ledger.allowed().max(orders.allowed());
            if allowed > now {
                return Ok(Err(allowed));
            }
            orders.ordered(now);
            storage.keep_orders(&shelf, &orders)?;
            ledger.ordering = Some(now);
            storage.keep_ledger(&shelf, &name, &ledger)?;
            Ok(Ok(()))
        });
        match noted.await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(allowed))) => {
                let when = jiff::Timestamp::from_second(i64::try_from(allowed).unwrap_or(i64::MAX));
                let when = when.unwrap_or_default();
                Err(Trouble {
                    wait_until: Some(allowed),
                    ..Trouble::new(
                        Class::Limited,
                        format!("no new order before {when}, so that the CA's limits are kept"),
                    )
                })
            }
            Some(Err(trouble)) => Err(trouble),
        }
    }

    /// Keeps the order that was made, or forgets it: then nothing is under way.
    pub async fn keep_order(&self, order: Option<Begun>) -> Result<(), Trouble> {
        let (shelf, name, kept) = (self.shelf.clone(), self.name.clone(), order.clone());
        let written = self.on_disk(move |storage| {
            storage.keep_order(&shelf, &name, kept.as_ref())?;
            // From here on a crash costs nothing: the order is taken up again.
            let mut ledger: Ledger = storage.raw_ledger(&shelf, &name)?;
            ledger.ordering = None;
            storage.keep_ledger(&shelf, &name, &ledger)
        });
        written.await.unwrap_or_else(|| {
            lock(&self.memory).order = order;
            Ok(())
        })
    }

    /// Runs a step on the blocking pool; nothing in a dry run.
    async fn on_disk<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Storage) -> io::Result<T> + Send + 'static,
    ) -> Option<Result<T, Trouble>> {
        let storage = self.storage.clone()?;
        Some(on_disk(storage, step).await)
    }
}

/// Runs a step on the blocking pool.
pub async fn on_disk<T: Send + 'static>(
    storage: Storage,
    step: impl FnOnce(&Storage) -> io::Result<T> + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(move || step(&storage)).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| Trouble::storage(&error))
}
