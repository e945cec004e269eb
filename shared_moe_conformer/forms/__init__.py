"""A released model in other toolkits' forms: ONNX for sherpa-onnx, TorchScript, icefall's folder, ESPnet's archive."""
