"""The guided tour: a small GPT, the text it learns, its training script, and what it showed."""
