//! The one table from the broker's errors to gRPC statuses.

use tonic::Status;

/// Bytes that are not a valid protobuf message of the method's type.
pub fn malformed_message(error: &prost::DecodeError) -> Status {
    Status::invalid_argument(format!("the request is not a valid protobuf message: {error}"))
}
