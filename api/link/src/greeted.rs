//! A TLS connection on which the other end has said its first word.
//!
//! With TLS 1.3 a client is through before the server has looked at its certificate. Nodes speak HTTP/2, where
//! the server speaks at once: what comes instead says why it does not take us.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// Of the first word: the head of an HTTP/2 frame is longer.
const FIRST_MAX_BYTES: usize = 64;

/// The connection, with what was read of it.
pub(crate) struct Greeted {
    stream: TlsStream<TcpStream>,
    first: Vec<u8>,
    taken: usize,
}

impl Greeted {
    /// Waits for the first word.
    ///
    /// # Errors
    /// What the other end said instead, a TLS alert as [`rustls::Error`] inside; or that it went without a word.
    pub(crate) async fn wait(mut stream: TlsStream<TcpStream>) -> io::Result<Self> {
        let mut first = vec![0; FIRST_MAX_BYTES];
        let n = stream.read(&mut first).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        first.truncate(n);
        Ok(Self { stream, first, taken: 0 })
    }

    pub(crate) fn tls(&self) -> &TlsStream<TcpStream> {
        &self.stream
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.first.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let n = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..n]);
        self.taken += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
