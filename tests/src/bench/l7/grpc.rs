//! gRPC over HTTP/2, as one known call and its answer.

/// The media type.
pub const CONTENT_TYPE: &str = "application/grpc";
/// The method called.
pub const PATH: &str = "/bench.Echo/Say";

/// A message of 64 octets behind gRPC's prefix: not compressed, and its length.
pub fn message() -> Vec<u8> {
    const LENGTH: u8 = 64;
    let mut message = vec![0, 0, 0, 0, LENGTH];
    message.resize(message.len() + usize::from(LENGTH), b'x');
    message
}
