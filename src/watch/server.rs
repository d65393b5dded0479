//! A small HTTP server for `/metrics` and `/healthz`: few connections, short requests, short answers.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::metrics::Metrics;
use crate::error::Error;
use crate::sync::Failure;

/// Connections at the same time; others wait.
const CONNECTIONS: usize = 32;
/// From the first byte of a connection to its last.
const TIME: Duration = Duration::from_secs(10);
/// When the year 10000 begins, in seconds since the epoch.
const YEAR_10000: u64 = 253_402_300_800;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Where to serve: `HOST:PORT`; a port alone, with or without a colon, is on loopback.
///
/// # Errors
/// It is no address; the text says how one looks.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = |port: &str| port.parse::<u16>().ok();
    if let Some(port) = port(text.strip_prefix(':').unwrap_or(text)) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    if let Some(port) = text.strip_prefix("localhost:").and_then(port) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    match text.parse::<IpAddr>() {
        Ok(_) => Err("a port is missing, as in 127.0.0.1:9090".to_owned()),
        Err(_) => text.parse().map_err(|_| {
            "an address is a port, or an IP address with a port, as in 127.0.0.1:9090".to_owned()
        }),
    }
}

/// Starts to serve; where, which is news where the port was 0.
pub(super) async fn start(address: SocketAddr, metrics: Arc<Metrics>) -> Result<SocketAddr, Failure> {
    let fail = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program listens there: choose another port",
            _ => "choose an address of this machine, and a port that this user may listen on",
        };
        Failure::Error(Error::Usage {
            message: format!("cannot serve metrics on {address}: {error}"),
            hint: Some(hint.to_owned()),
        })
    };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    tokio::spawn(accept(listener, metrics));
    Ok(address)
}

async fn accept(listener: TcpListener, metrics: Arc<Metrics>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = Arc::clone(&metrics);
                tokio::spawn(async move {
                    // A client that is slow or goes away is its own problem.
                    let _ = tokio::time::timeout(TIME, serve(stream, metrics)).await;
                    drop(permit);
                });
            }
            // No descriptors left, most likely: they come back.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn serve(stream: TcpStream, metrics: Arc<Metrics>) {
    // The crate writes the date, and panics where the clock is set before 1970 or after the year 9999.
    if !SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|time| time.as_secs() < YEAR_10000) {
        return;
    }
    let service = service_fn(|request| {
        let response = answer(&request, &metrics);
        async { Ok::<_, Infallible>(response) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<String> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const TEXT: &str = "text/plain; charset=utf-8";
    let respond = |status: StatusCode, kind: &'static str, body: String| {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
        response
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => respond(StatusCode::OK, OPEN_METRICS, metrics.text()),
        "/healthz" => match metrics.trouble() {
            None => respond(StatusCode::OK, TEXT, format!("ok: {}\n", metrics.summary())),
            Some(trouble) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{trouble}\n")),
        },
        "/" => respond(StatusCode::OK, TEXT, "msb-sync: /metrics, /healthz\n".to_owned()),
        _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /metrics and /healthz\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_loopback() {
        for (text, expected) in [
            ("9090", "127.0.0.1:9090"),
            (":9090", "127.0.0.1:9090"),
            ("localhost:9090", "127.0.0.1:9090"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), expected);
        }
        for bad in ["", ":", "x", "host:1", "127.0.0.1", "70000", ":70000", "1.2.3.4:x"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
