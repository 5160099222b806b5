"""Data cleaning by reward: labels are scored, the good ones kept (paper section 4.5)."""
