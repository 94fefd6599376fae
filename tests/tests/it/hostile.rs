//! Row 18 of the test programme at its small size: requests that no honest client sends, as raw HTTP/2 frames. The
//! broker answers each with the right status, or ends the stream; it lives on, serves others, and takes no memory
//! beyond a bound.

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request};
use prost::Message as _;
use sawlog_proto::v1;
use sawlog_testing::TestBroker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::wire::{Wire, all_of, keyed, plain, unkeyed, value};

const PRODUCE: &str = "/sawlog.v1.ProduceService/Produce";
const STREAM: &str = "/sawlog.v1.ProduceService/ProduceStream";
const READ: &str = "/sawlog.v1.ReadService/Read";
const CREATE: &str = "/sawlog.v1.TopicService/CreateTopic";

/// Row 18: the broker's memory may rise by so much, all cases together.
const MEMORY_BYTES: u64 = 64 << 20;

fn address(broker: &TestBroker) -> String {
    broker.url().strip_prefix("http://").unwrap().to_owned()
}

async fn connect(broker: &TestBroker) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(address(broker)).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    // Ends with its client.
    tokio::spawn(connection);
    send
}

fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(Method::POST).uri(format!("http://x{path}"));
    request = request.header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// Sends bytes as a request's body and gives the status that it ends with; `None` if the stream is reset.
pub(crate) async fn call(broker: &TestBroker, path: &str, headers: &[(&str, &str)], body: Bytes) -> Option<Code> {
    let mut send = connect(broker).await.ready().await.unwrap();
    let (response, mut stream) = send.send_request(request(path, headers), false).unwrap();
    // It may be refused before all of it is sent.
    let _ = stream.send_data(body, true);
    status(response).await
}

async fn status(response: ResponseFuture) -> Option<Code> {
    let response = response.await.ok()?;
    let code = |headers: &HeaderMap| headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    if let Some(code) = code(response.headers()) {
        return Some(code);
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        let _ = body.flow_control().release_capacity(data.len());
    }
    body.trailers().await.ok()?.as_ref().and_then(code)
}

/// A gRPC message with this flag and length, whatever follows.
pub(crate) fn framed(flag: u8, length: u32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(flag);
    out.put_u32(length);
    out.put_slice(body);
    out.freeze()
}

fn message(body: &[u8]) -> Bytes {
    framed(0, body.len() as u32, body)
}

fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Request bodies that do not decode or exceed a bound, with what may answer them.
fn bodies() -> Vec<(&'static str, &'static str, Bytes, &'static [Code])> {
    const REFUSED: &[Code] = &[Code::OutOfRange, Code::Internal, Code::ResourceExhausted];
    const INTERNAL: &[Code] = &[Code::Internal, Code::Unimplemented, Code::InvalidArgument];
    const ARGUMENT: &[Code] = &[Code::InvalidArgument];
    let good = plain("a", vec![value("x")]).encode_to_vec();
    let name = |name: &str| {
        let request = v1::CreateTopicRequest { name: name.into(), ..Default::default() };
        message(&request.encode_to_vec())
    };
    // Field 1, wire type 2, of so many bytes.
    let field = |tag: u8, length: u64, rest: &[u8]| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(length, &mut out);
        out.extend_from_slice(rest);
        message(&out)
    };
    let nested = (0..200).fold(Vec::new(), |inner: Vec<u8>, _| {
        let mut out = vec![0x22];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.extend(inner);
        out
    });
    let empty_records = [0x0a_u8, 0x00].repeat(400_000);
    let mut many = vec![0x0a, 0x01, b'a', 0x22];
    prost::encoding::encode_varint(empty_records.len() as u64, &mut many);
    many.extend(&empty_records);
    let read = |change: fn(&mut v1::ReadRequest)| {
        let mut request = all_of("a");
        change(&mut request);
        message(&request.encode_to_vec())
    };
    vec![
        ("a length of 4 GiB", PRODUCE, framed(0, u32::MAX, b"x"), REFUSED),
        ("a length of 4 GiB on a stream", STREAM, framed(0, u32::MAX, b"x"), REFUSED),
        ("a length of 4 GiB on a read", READ, framed(0, u32::MAX, b"x"), REFUSED),
        ("a length just over the limit", PRODUCE, framed(0, (8 << 20) + 1, b"x"), REFUSED),
        ("a length that is not kept", PRODUCE, framed(0, 1_000, b"x"), INTERNAL),
        ("a prefix cut short", PRODUCE, Bytes::from_static(&[0, 0, 0]), INTERNAL),
        ("no message at all", PRODUCE, Bytes::new(), INTERNAL),
        ("no message at all on a read", READ, Bytes::new(), INTERNAL),
        (
            "two messages on a unary call",
            CREATE,
            [message(&good), message(&good)].concat().into(),
            &[Code::Internal, Code::InvalidArgument, Code::AlreadyExists],
        ),
        ("the compressed flag", PRODUCE, framed(1, good.len() as u32, &good), INTERNAL),
        ("the compressed flag on a stream", STREAM, framed(1, good.len() as u32, &good), INTERNAL),
        ("the compressed flag on a read", READ, framed(1, good.len() as u32, &good), INTERNAL),
        ("a flag of 255", PRODUCE, framed(255, good.len() as u32, &good), INTERNAL),
        ("a message cut in the middle", PRODUCE, message(&good[..good.len() - 2]), INTERNAL),
        ("a field of 2^63 bytes", PRODUCE, field(0x0a, 1 << 63, b"a"), INTERNAL),
        ("a field of 2 GiB", PRODUCE, field(0x22, 1 << 31, b"a"), INTERNAL),
        ("an endless varint", PRODUCE, message(&[0xff; 40]), INTERNAL),
        ("a wire type that there is not", PRODUCE, message(&[0x0f, 0x00]), INTERNAL),
        ("field number 0", PRODUCE, message(&[0x00, 0x00]), INTERNAL),
        ("another wire type for a known field", PRODUCE, message(&[0x08, 0x01]), INTERNAL),
        ("a name that is not UTF-8", PRODUCE, message(&[0x0a, 0x02, 0xff, 0xfe]), INTERNAL),
        ("a name that is not UTF-8 on a read", READ, message(&[0x0a, 0x02, 0xff, 0xfe]), INTERNAL),
        (
            "messages in messages, 200 deep",
            PRODUCE,
            message(&nested),
            &[Code::Internal, Code::InvalidArgument, Code::NotFound],
        ),
        ("400,000 empty records", PRODUCE, message(&many), ARGUMENT),
        ("only zeros", PRODUCE, message(&[0; 5_000]), INTERNAL),
        ("unknown fields only", PRODUCE, message(&[0xfa, 0x01, 0x01, 0x00]), &[Code::NotFound, Code::InvalidArgument]),
        ("a path as a name", CREATE, name("../../etc/passwd"), ARGUMENT),
        ("an absolute path as a name", CREATE, name("/etc/passwd"), ARGUMENT),
        ("a name of a mebibyte", CREATE, name(&"x".repeat(1 << 20)), ARGUMENT),
        ("a name with a zero byte", CREATE, name("a\0b"), ARGUMENT),
        ("a name that looks like another", CREATE, name("\u{430}"), ARGUMENT),
        ("a name that moves the cursor", CREATE, name("\u{1b}[2J"), ARGUMENT),
        (
            "a negative offset",
            READ,
            read(|request| request.start = crate::wire::from(v1::read_start::At::Offset(-1))),
            ARGUMENT,
        ),
        (
            "the last 2^63 records, negative",
            READ,
            read(|request| {
                request.start = crate::wire::from(v1::read_start::At::Last(i64::MIN));
            }),
            ARGUMENT,
        ),
        ("100,000 partitions", READ, read(|request| request.partitions = vec![u32::MAX; 100_000]), &[Code::NotFound]),
    ]
}

#[tokio::test]
async fn row_18_hostile_requests_get_the_right_status_and_harm_nobody() {
    let broker = TestBroker::start().await;
    let mut honest = Wire::new(&broker).await;
    honest.topic("a", unkeyed(1)).await;
    honest.write("a", vec![value("before")]).await;
    let before = peak_bytes();
    let bodies = bodies();
    let mut cases = bodies.len();
    for (what, path, body, codes) in bodies {
        let code = call(&broker, path, &[], body).await;
        assert!(code.is_some_and(|code| codes.contains(&code)), "{what}: {code:?}, expected one of {codes:?}");
    }
    let good = message(&plain("a", vec![value("x")]).encode_to_vec());
    let unknown = [
        ("/sawlog.v1.ProduceService/Nothing", Code::Unimplemented),
        ("/sawlog.v1.NoService/Produce", Code::Unimplemented),
        ("/other.Service/Call", Code::Unimplemented),
        ("/grpc.health.v1.Health/Nothing", Code::Unimplemented),
    ];
    for (path, expected) in unknown {
        assert_eq!(call(&broker, path, &[], good.clone()).await, Some(expected), "{path}");
        cases += 1;
    }
    for path in [PRODUCE, STREAM, READ] {
        // A bomb cannot be: gRPC compression is not accepted at all.
        let code = call(&broker, path, &[("grpc-encoding", "gzip")], framed(1, 4, &[0x1f, 0x8b, 8, 0])).await;
        assert_eq!(code, Some(Code::Unimplemented), "{path}");
        cases += 1;
    }
    println!("{cases} hostile requests");
    assert!(cases >= 40, "{cases} cases");
    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        // This process is client and broker in one, and other tests run in it: a bound, not a measure.
        assert!(after - before < 2 * MEMORY_BYTES, "{} bytes more at the peak", after - before);
    }
    assert_eq!(honest.values(all_of("a")).await.len(), 1, "nothing of all this is stored");
    honest.write("a", vec![value("after")]).await;
    assert!(broker.shutdown().await);
}

#[tokio::test]
async fn row_18_what_is_no_http_2_is_answered_or_closed() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"[..],
        b"POST /sawlog.v1.ProduceService/Produce HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(address(&broker)).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("/metrics"), "{answer}");
    }
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(address(&broker)).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Closed, with or without a word.
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", answer.escape_ascii().to_string());
    }
    // The preface, then frames that are none.
    let mut socket = TcpStream::connect(address(&broker)).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    socket.write_all(&[0xff; 64]).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    // A header list far over its limit.
    let mut send = connect(&broker).await.ready().await.unwrap();
    let huge = "x".repeat(100_000);
    let refused = match send.send_request(request(PRODUCE, &[("x-huge", &huge)]), true) {
        Ok((response, _)) => match response.await {
            Ok(response) => !response.status().is_success(),
            Err(_) => true,
        },
        Err(_) => true,
    };
    assert!(refused);
    wire.topic("a", unkeyed(1)).await;
}

#[tokio::test]
async fn row_18_streams_beyond_the_limit_of_a_connection_wait_or_are_refused() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let send = connect(&broker).await;
    // As many produce streams as a connection may have; none sends anything.
    let mut open = Vec::new();
    for _ in 0..256 {
        let mut ready = send.clone().ready().await.unwrap();
        open.push(ready.send_request(request(STREAM, &[]), false).unwrap());
    }
    let mut next = send.clone();
    let beyond = std::pin::pin!(std::future::poll_fn(|task| next.poll_ready(task)));
    let waits = tokio::time::timeout(std::time::Duration::from_millis(50), beyond).await;
    if let Ok(Ok(())) = waits {
        // Our client may queue it; the broker must not take it.
        let (response, _) = next.send_request(request(STREAM, &[]), false).unwrap();
        let answered = tokio::time::timeout(std::time::Duration::from_millis(50), response).await;
        assert!(!matches!(answered, Ok(Ok(_))), "a 257th stream was served");
    }
    // Another connection is served as ever.
    wire.write("a", vec![value("x")]).await;
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_told_so() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", v1::TopicConfig { partitions: Some(1), ..Default::default() }).await;
    let good = message(&plain("a", vec![keyed("k", "x")]).encode_to_vec());
    let mut code = None;
    for _ in 0..200 {
        code = call(&broker, PRODUCE, &[("grpc-timeout", "1n")], good.clone()).await;
        if code == Some(Code::DeadlineExceeded) {
            break;
        }
    }
    assert_eq!(code, Some(Code::DeadlineExceeded), "a sync takes longer than a nanosecond");
    assert!(crate::errors::metrics(&broker).await.contains("reason=\"REQUEST_TIMEOUT\""));
}

#[tokio::test]
async fn health_and_reflection_answer_and_follow_the_broker() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

    let mut broker = TestBroker::start().await;
    let wire = Wire::new(&broker).await;
    let mut health = HealthClient::new(wire.channel.clone());
    for service in ["", "sawlog.v1.TopicService", "sawlog.v1.ProduceService", "sawlog.v1.ReadService"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "nothing".into() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    assert!(crate::errors::http_get(&broker, "/healthz").await.starts_with("HTTP/1.1 200"));
    // A ListServices request is field 7, a string.
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let code = call(&broker, &path, &[], message(&[0x3a, 0x01, b'*'])).await;
        assert_eq!(code, Some(Code::Ok), "{version}");
    }
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    // An open watch does not hold up the stop.
    let (stopped, change) = tokio::join!(broker.stop(), watch.message());
    assert!(stopped);
    assert!(change.is_err() || change.unwrap().is_none_or(|change| change.status() == ServingStatus::NotServing));
}
