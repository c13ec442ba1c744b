//! The way to the backend: TCP or a Unix socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service;

use crate::config::Backend;
use crate::edge::activity::Activity;
use crate::edge::limits::BACKEND_CONNECT_WAIT;
use crate::edge::socket::{Poison, Socket, Stream};

/// Connects to one backend, whatever it is asked for.
#[derive(Debug, Clone)]
pub struct Road(Arc<Backend>);

impl Road {
    /// The way to a backend.
    pub fn to(backend: Backend) -> Self {
        Self(Arc::new(backend))
    }

    async fn connect(self) -> io::Result<Stream> {
        match &*self.0 {
            Backend::Tcp(authority) => {
                let tcp = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
                tcp.set_nodelay(true)?;
                Ok(Stream::Tcp(tcp))
            }
            Backend::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }
}

impl Service<Uri> for Road {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Socket>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(BACKEND_CONNECT_WAIT, self.clone().connect());
        Box::pin(async {
            let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(TokioIo::new(Socket::new(stream, Poison::default(), Activity::new())))
        })
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
