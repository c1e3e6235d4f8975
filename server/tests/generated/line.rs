//! One connection on which one request follows the other, octets as they are; a new one when it has ended.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
};

use crate::{
    answer::Answered,
    ask::Ask,
    rig::http::{Http, Stream},
};

pub(crate) struct Line {
    http: Http,
    stream: Option<Stream>,
}

impl Line {
    pub(crate) fn new(http: Http) -> Self {
        Self { http, stream: None }
    }

    /// Asks; `None` when the connection ended without a whole answer, twice.
    pub(crate) fn ask(&mut self, ask: &Ask, token: Option<&str>) -> Option<Answered> {
        let octets = ask.octets(token);
        // A connection that has been used may have been ended meanwhile: that says nothing of this request.
        let used = self.stream.is_some();
        self.one(ask, &octets).ok().or_else(|| if used { self.one(ask, &octets).ok() } else { None })
    }

    fn one(&mut self, ask: &Ask, octets: &[u8]) -> io::Result<Answered> {
        let mut stream = self.stream.take().unwrap_or_else(|| self.http.connect());
        // A server that has answered already may have closed its end.
        let _ = stream.write_all(octets).and_then(|()| stream.flush());
        if ask.torn {
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let _ = stream.sock.shutdown(Shutdown::Write);
        }
        let (answered, lasts) = read(&mut stream)?;
        if lasts && !ask.torn {
            self.stream = Some(stream);
        }
        Ok(answered)
    }
}

/// One answer, and whether the connection goes on after it.
fn read(stream: &mut Stream) -> io::Result<(Answered, bool)> {
    let mut octets = Vec::new();
    let end = loop {
        if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, &mut octets)?;
    };
    let head = String::from_utf8_lossy(&octets[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(head.clone()))?;
    let mut answered = Answered { status, head, body: octets.split_off(end) };
    if answered.header("content-type").is_some_and(|of| of.starts_with("text/event-stream")) {
        // It does not end.
        return Ok((answered, false));
    }
    let length =
        answered.header("content-length").map(|length| length.parse::<usize>().map_err(io::Error::other));
    if let Some(length) = length.transpose()? {
        while answered.body.len() < length {
            more(stream, &mut answered.body)?;
        }
    } else if answered.header("transfer-encoding") == Some("chunked") {
        answered.body = chunks(stream, std::mem::take(&mut answered.body))?;
    } else {
        while more(stream, &mut answered.body).is_ok() {}
    }
    let lasts = answered.header("connection") != Some("close");
    Ok((answered, lasts))
}

/// A body in chunks (RFC 9112 §7.1), as one.
fn chunks(stream: &mut Stream, mut octets: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = octets.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            more(stream, &mut octets)?;
        };
        let size =
            std::str::from_utf8(&octets[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| io::Error::other("a chunk without a size"))?;
        while octets.len() < end + 2 + size + 2 {
            more(stream, &mut octets)?;
        }
        body.extend_from_slice(&octets[end + 2..end + 2 + size]);
        octets.drain(..end + 2 + size + 2);
        if size == 0 {
            return Ok(body);
        }
    }
}

fn more(stream: &mut Stream, octets: &mut Vec<u8>) -> io::Result<()> {
    let mut some = [0; 16 * 1024];
    match stream.read(&mut some)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            octets.extend_from_slice(&some[..n]);
            Ok(())
        }
    }
}
