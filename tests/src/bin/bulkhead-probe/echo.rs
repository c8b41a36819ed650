//! Servers that answer everything with the same bytes.

use std::{
    io,
    net::{TcpListener, UdpSocket},
    thread,
};

use socket2::{Socket, Type};

/// More than any question is long.
const BUFFER: usize = 2048;

/// Serves a bound socket for as long as this process lives.
pub(crate) fn serve(socket: Socket) -> io::Result<()> {
    if socket.r#type()? == Type::STREAM {
        socket.listen(64)?;
        let listener = socket.into();
        thread::spawn(move || accept(&listener));
    } else {
        thread::spawn(move || answer(&socket.into()));
    }
    Ok(())
}

fn accept(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // Each ends with its connection: a client that goes away is no failure of the server.
        thread::spawn(move || io::copy(&mut &stream, &mut &stream));
    }
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; BUFFER];
    loop {
        // Errors are of single datagrams: an answer that was refused, a port that nobody has any more.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
