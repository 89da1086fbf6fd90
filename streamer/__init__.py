"""The running service: product events on Kafka in, tag events out."""
