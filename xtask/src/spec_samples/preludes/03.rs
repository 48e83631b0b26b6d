// The sample is complete as it stands.
