//! The demo's servers.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::Result;

/// What to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Service {
    /// An HTTP server.
    Http,
    /// A listener that greets its clients as databases do, before they say a word.
    Database,
    /// The same, for passwords and keys.
    Secrets,
}

impl Service {
    /// The name of the argument.
    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Database => "database",
            Self::Secrets => "secrets",
        }
    }

    /// Its port.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Database => 5432,
            Self::Secrets => 8200,
        }
    }
}

/// Serves on every address of its network until it is killed. Says a line on standard output once it listens.
pub(crate) fn serve(service: Service) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, service.port())))?;
    println!("listening");
    for client in listener.incoming() {
        let client = client?;
        // Each ends with its connection: a client that goes away is no failure of the server.
        thread::spawn(move || match service {
            Service::Http => answer(&client),
            Service::Database | Service::Secrets => greet(&client),
        });
    }
    Ok(())
}

fn answer(mut client: &TcpStream) -> io::Result<()> {
    let request = BufReader::new(client).lines();
    // The request ends with an empty line.
    for line in request {
        if line?.is_empty() {
            break;
        }
    }
    let page = "Welcome to the shop.\n";
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )
}

fn greet(mut client: &TcpStream) -> io::Result<()> {
    client.write_all(b"at your service\n")
}
