"""The store in AWS Secrets Manager."""
