//! From the published Q4_1 weights to Q8_0.
//!
//! candle has no SIMD kernel for Q4_1: prompts are read ten times slower with it. Q8_0 is larger and exact enough
//! to keep everything that Q4_1 left. Metadata (tokenizer, chat template) goes along unchanged.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::{OnProgress, Phase, Progress, PullError};

/// `LLAMA_FTYPE_MOSTLY_Q8_0`
const FILE_TYPE_Q8_0: u32 = 7;

/// Writes the weights at `from` to `target`; `path` names the target in errors.
///
/// The result depends on the source alone: everything is written in a fixed order.
pub(super) fn convert(from: &Path, target: &File, path: &Path, on_progress: &OnProgress) -> Result<(), PullError> {
    let mut source = BufReader::new(File::open(from).map_err(PullError::io("read", from))?);
    let content = Content::read(&mut source).map_err(|error| broken(&error))?;
    let total = source.get_ref().metadata().ok().map(|metadata| metadata.len());

    let file_type = Value::U32(FILE_TYPE_Q8_0);
    let mut metadata: Vec<(&str, &Value)> = content
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), if key == "general.file_type" { &file_type } else { value }))
        .collect();
    metadata.sort_unstable_by_key(|(key, _)| *key);

    let mut infos: Vec<_> = content.tensor_infos.iter().collect();
    infos.sort_unstable_by_key(|(name, info)| (info.offset, name.as_str()));
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let tensor = content.tensor(&mut source, name, &Device::Cpu).map_err(|error| broken(&error))?;
        tensors.push((name.as_str(), to_q8_0(tensor).map_err(|error| broken(&error))?));
        on_progress(Progress { phase: Phase::Converting, done: content.tensor_data_offset + info.offset, total });
    }
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut target = BufWriter::with_capacity(1 << 18, target);
    gguf_file::write(&mut target, &metadata, &tensors).map_err(|error| match error {
        candle_core::Error::Io(error) => PullError::io("write", path)(error),
        other => broken(&other),
    })?;
    target.flush().map_err(PullError::io("write", path))?;
    if let Some(total) = total {
        on_progress(Progress { phase: Phase::Converting, done: total, total: Some(total) });
    }
    Ok(())
}

/// Matrices become Q8_0; the few vectors stay as they are.
fn to_q8_0(tensor: QTensor) -> candle_core::Result<QTensor> {
    let is_matrix = tensor.rank() == 2 && tensor.shape().dims()[1].is_multiple_of(GgmlDType::Q8_0.block_size());
    if !is_matrix || tensor.dtype() == GgmlDType::Q8_0 {
        return Ok(tensor);
    }
    QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q8_0)
}

fn broken(error: &candle_core::Error) -> PullError {
    PullError::Conversion { reason: error.to_string() }
}
