//! What Kafka's errors mean for who asked.

use gb6_core_ports::StoreError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::frame::FRAME_BYTES_MAX;

/// A message was handed to the client and was not delivered. Unless Kafka can only have refused it as
/// it is, nobody knows: an attempt before the last one may have arrived. That is so of `PurgeQueue` too:
/// a client that fails for good purges what it sent and had queued again.
pub(crate) fn of_delivery(error: &KafkaError) -> StoreError {
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => StoreError::TooLarge {
            size: FRAME_BYTES_MAX as u64,
            limit: FRAME_BYTES_MAX as u64,
        },
        _ => StoreError::OutcomeUnknown {
            cause: format!("Kafka did not take a batch: {}", text(error)),
        },
    }
}

/// The client did not take a message: nothing was sent.
pub(crate) fn of_send(error: &KafkaError, waiting: usize, limit: usize) -> StoreError {
    match error.rdkafka_error_code() {
        Some(Code::QueueFull) => StoreError::Backpressure {
            waiting: waiting as u64,
            limit: limit as u64,
        },
        Some(Code::MessageSizeTooLarge) => StoreError::TooLarge {
            size: FRAME_BYTES_MAX as u64,
            limit: FRAME_BYTES_MAX as u64,
        },
        _ => unavailable("the Kafka client did not take a batch", error),
    }
}

/// Something was read or asked, and there was no answer.
pub(crate) fn unavailable(what: &str, error: &KafkaError) -> StoreError {
    StoreError::Unavailable {
        cause: format!("{what}: {}", text(error)),
    }
}

/// An error in words, with what to do about those that somebody can mend.
pub(crate) fn text(error: &KafkaError) -> String {
    let advice = match error.rdkafka_error_code() {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            ": the topic or partition is not there; was it deleted?"
        }
        Some(Code::TopicAuthorizationFailed) => {
            ": grant READ, WRITE, DELETE, DESCRIBE and DESCRIBE_CONFIGS on the topic to this user"
        }
        Some(Code::GroupAuthorizationFailed) => {
            ": grant DESCRIBE on the group gb6-log to this user"
        }
        // Who may write to any topic may do so without repetitions.
        Some(Code::ClusterAuthorizationFailed) => ": grant WRITE on the topic to this user",
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
            ": user, password, mechanism or security= are not what the brokers want"
        }
        Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::AllBrokersDown) => {
            ": are they running, and are security=, cert_file and key_file what their listeners want?"
        }
        Some(Code::Resolve) => ": no address is known for a broker's name",
        Some(Code::SSL) => {
            ": is the port one with TLS, and ca_file the authority of its certificate?"
        }
        Some(Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend) => {
            ": fewer brokers hold the partition than min.insync.replicas asks for"
        }
        Some(Code::KafkaStorageError) => {
            ": the broker can not write to its disk; is it full, or broken?"
        }
        _ => "",
    };
    match error.rdkafka_error_code() {
        Some(code) => format!("{code}{advice}"),
        None => error.to_string(),
    }
}

/// A short name for metrics.
pub(crate) fn kind(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => format!("{code:?}"),
        None => "Client".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_written_is_never_called_refused() {
        for code in [
            Code::MessageTimedOut,
            Code::NotEnoughReplicas,
            Code::NotEnoughReplicasAfterAppend,
            Code::KafkaStorageError,
            Code::BrokerTransportFailure,
            Code::TopicAuthorizationFailed,
            Code::PurgeInflight,
            Code::PurgeQueue,
            Code::Fatal,
        ] {
            let error = of_delivery(&KafkaError::MessageProduction(code));
            assert!(
                matches!(error, StoreError::OutcomeUnknown { .. }),
                "{error}"
            );
            assert!(!error.retryable());
        }
        let large = of_delivery(&KafkaError::MessageProduction(Code::MessageSizeTooLarge));
        assert!(matches!(large, StoreError::TooLarge { .. }));
    }

    #[test]
    fn what_was_never_sent_may_be_repeated() {
        let full = of_send(&KafkaError::MessageProduction(Code::QueueFull), 7, 5);
        assert_eq!(
            full,
            StoreError::Backpressure {
                waiting: 7,
                limit: 5
            }
        );
        let gone = of_send(&KafkaError::MessageProduction(Code::UnknownTopic), 0, 5);
        assert!(
            gone.retryable() && gone.to_string().contains("deleted"),
            "{gone}"
        );
    }
}
