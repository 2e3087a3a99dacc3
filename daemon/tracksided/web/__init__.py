"""The HTTP process: metrics, health check and live page, made from files that others write."""
