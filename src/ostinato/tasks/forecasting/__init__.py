"""Forecasting of time series: one folder, from windows of the past to scores."""
