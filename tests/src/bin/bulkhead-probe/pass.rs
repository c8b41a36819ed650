//! Sockets that change hands over a Unix socket (unix(7), `SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;

const ONE_SOCKET: usize = rustix::cmsg_space!(ScmRights(1));

/// Sends a socket to whoever listens at `path`.
pub(crate) fn send(socket: &Socket, path: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(path)?;
    let sockets = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); ONE_SOCKET];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(stream, &[IoSlice::new(b"s")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Waits for a socket.
pub(crate) fn receive(listener: &UnixListener) -> io::Result<Socket> {
    let (stream, _) = listener.accept()?;
    let mut space = [MaybeUninit::uninit(); ONE_SOCKET];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        })
        .map(Socket::from)
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
