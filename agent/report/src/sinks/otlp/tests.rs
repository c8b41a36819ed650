use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    thread::{self, JoinHandle},
};

use super::*;
use crate::sinks::testing::denial;

/// A collector that gives these answers, one after the other, and then the requests: path and body.
fn collector(answers: &'static [&'static str]) -> (Endpoint, JoinHandle<Vec<(String, Value)>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let take = move |answer: &&str| {
        let (stream, _) = listener.accept().unwrap();
        let mut request = BufReader::new(stream);
        let mut first = String::new();
        request.read_line(&mut first).unwrap();
        let mut length = 0;
        loop {
            let mut header = String::new();
            request.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        request.read_exact(&mut body).unwrap();
        request.into_inner().write_all(answer.as_bytes()).unwrap();
        (first.split(' ').nth(1).unwrap().to_owned(), serde_json::from_slice(&body).unwrap())
    };
    (endpoint, thread::spawn(move || answers.iter().map(take).collect()))
}

fn batch(size: usize) -> Vec<Arc<Denial>> {
    (0..size).map(|_| Arc::new(denial())).collect()
}

const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const WRONG: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
const PARTLY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 72\r\n\r\n\
    {\"partialSuccess\":{\"rejectedLogRecords\":\"2\",\"errorMessage\":\"too  old\"}}  ";

#[test]
fn a_batch_is_one_request_with_a_record_for_each() {
    let (endpoint, requests) = collector(&[TAKEN]);
    Otlp::at(endpoint).unwrap().deliver(&batch(3)).unwrap();
    let (path, body) = requests.join().unwrap().remove(0);
    assert_eq!(path, "/v1/logs");
    let logs = &body["resourceLogs"][0];
    assert_eq!(
        logs["resource"]["attributes"][0],
        json!({ "key": "service.name", "value": { "stringValue": "bulkhead" } })
    );
    let records = logs["scopeLogs"][0]["logRecords"].as_array().unwrap();
    assert_eq!(records.len(), 3);
    let record = &records[0];
    assert_eq!(record["timeUnixNano"], "1795292103123456000");
    assert_eq!((&record["severityNumber"], &record["severityText"]), (&json!(13), &json!("WARN")));
    assert_eq!(record["body"]["stringValue"], human::line(&denial()));
    let value = |key: &str| {
        let attributes = record["attributes"].as_array().unwrap();
        attributes.iter().find(|a| a["key"] == key).map(|a| a["value"].clone())
    };
    assert_eq!(value("bulkhead.workload.name"), Some(json!({ "stringValue": "ci" })));
    assert_eq!(value("bulkhead.peer.port"), Some(json!({ "intValue": "5432" })));
    assert_eq!(
        value("bulkhead.nearest_rule.differs"),
        Some(json!({ "arrayValue": { "values": [{ "stringValue": "from" }, { "stringValue": "ports" }] } }))
    );
    assert_eq!(value("bulkhead.rule.id"), None);
}

#[test]
fn a_busy_collector_is_asked_again_and_what_it_never_takes_is_given_up() {
    let (endpoint, requests) = collector(&[BUSY, WRONG, PARTLY]);
    let mut otlp = Otlp::at(endpoint).unwrap();
    let mut offer = || {
        let undelivered = otlp.deliver(&batch(5)).unwrap_err();
        (undelivered.delivered, undelivered.refused)
    };
    assert_eq!([offer(), offer(), offer()], [(0, 0), (0, 5), (3, 2)]);
    assert_eq!(requests.join().unwrap().len(), 3);
}

#[test]
fn a_collector_that_is_not_there_is_tried_again() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut otlp = Otlp::at(format!("http://{nobody}").parse().unwrap()).unwrap();
    let undelivered = otlp.deliver(&batch(1)).unwrap_err();
    assert_eq!((undelivered.delivered, undelivered.refused), (0, 0), "{}", undelivered.why);
}

#[test]
fn an_endpoint_has_a_port_and_a_path_of_its_own_or_the_usual_ones() {
    let whole = |text: &str| text.parse::<Endpoint>().map(|e| (e.port, e.to_string()));
    assert_eq!(whole("http://127.0.0.1"), Ok((4318, "http://127.0.0.1/v1/logs".into())));
    assert_eq!(whole("http://[::1]:99/otlp/logs"), Ok((99, "http://[::1]:99/otlp/logs".into())));
    assert!(matches!(whole("https://collector:4318"), Err(EndpointError::Encrypted(_))));
    for text in ["collector:4318", "ftp://collector", "http://", "http://me:secret@collector"] {
        assert!(matches!(whole(text), Err(EndpointError::Unknown(_))), "{text}");
    }
}
