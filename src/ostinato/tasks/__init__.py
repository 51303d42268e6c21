"""What people use recurrent networks for, one estimator a use."""
