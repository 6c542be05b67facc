//! Relays: threads that copy the container's streams between the caller's file descriptors and the guest's
//! connections. A full stream blocks its own relay only.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use super::channel::Stream;

/// What one turn copies: a pipe's default capacity.
const BUFFER_BYTES: usize = 64 << 10;

/// Relays a stream of a process to this process's own, and calls `done` when an output has ended.
///
/// # Errors
/// A thread could not be started.
pub(crate) fn standard(
    stream: Stream,
    connection: UnixStream,
    done: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    match stream {
        Stream::Stdin => input(connection),
        Stream::Stdout => output("crx-stdout", connection, io::stdout(), done),
        Stream::Stderr => output("crx-stderr", connection, io::stderr(), done),
        Stream::Terminal => {
            input(connection.try_clone()?)?;
            output("crx-stdout", connection, io::stdout(), done)
        }
    }
}

/// Copies stdin to the guest until its end, which is passed on.
fn input(mut to: UnixStream) -> io::Result<()> {
    spawn("crx-stdin", move || {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match read_fd(io::stdin().as_fd(), &mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            }
        }
        // The guest closed first, or reads the end now.
        let _ = to.shutdown(Shutdown::Write);
    })
}

/// Copies a guest's stream to `to` until its end, then calls `done`.
///
/// When nobody reads `to` any more the guest is told, so that its writer gets SIGPIPE.
fn output(
    name: &'static str,
    mut from: UnixStream,
    to: impl AsFd + Send + 'static,
    done: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    spawn(name, move || {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if write_fd(to.as_fd(), &buffer[..length]).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                break;
            }
        }
        done();
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// read(2) that waits if the descriptor was left non-blocking by whoever shares it.
fn read_fd(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(rustix::io::Errno::AGAIN) => wait(fd, PollFlags::IN)?,
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// write(2) of everything, waiting likewise.
fn write_fd(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Err(rustix::io::Errno::AGAIN) => wait(fd, PollFlags::OUT)?,
            Err(rustix::io::Errno::INTR) => {}
            Ok(length) => bytes = &bytes[length..],
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, event: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(&fd, event)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn output_is_passed_on_whole_and_its_end_reported() {
        let (guest, relayed) = UnixStream::pair().unwrap();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let (sender, receiver) = mpsc::channel();
        output("crx-stdout", relayed, writer, move || sender.send(()).unwrap()).unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 31) as u8).collect();
        let sent = bytes.clone();
        let feeder = thread::spawn(move || (&guest).write_all(&sent).unwrap());
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(got == bytes);
        receiver.recv().unwrap();
        feeder.join().unwrap();
    }

    #[test]
    fn a_reader_that_left_is_told_to_the_guest() {
        let (guest, relayed) = UnixStream::pair().unwrap();
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let (sender, receiver) = mpsc::channel();
        output("crx-stdout", relayed, writer, move || sender.send(()).unwrap()).unwrap();
        (&guest).write_all(b"into the void").unwrap();
        receiver.recv().unwrap();
        let mut rest = Vec::new();
        (&guest).read_to_end(&mut rest).unwrap();
        assert!((&guest).write_all(b"again").is_err());
    }
}
