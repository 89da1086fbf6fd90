"""Tag marketplace listings: a quantised encoder with LoRA adapters, usable without Kafka."""
