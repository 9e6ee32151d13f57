"""Training: pairs -> SFT -> DPO with TRL and DeepSpeed on Ray Train, published as a merged model."""
